//! The settings of the model.

use std::path::PathBuf;

use kosmos2::compute::FORMATS;
use models::ModelSource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The model and its device.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ModelSettings {
    /// Model: a directory (a local Hugging Face checkpoint), `hf://OWNER/NAME[@REVISION][/FOLDER]` for a repository of the
    /// Hugging Face hub, or `s3://BUCKET/PREFIX` for objects of the store of `[s3]`, which `s3.allow` need not name.
    /// `GROUNDLING_MODEL` sets it, too.
    ///
    /// Models of the hub and of a store are downloaded once. Without a revision, `main` is looked up at every start; a full
    /// commit never changes and needs no look-up. The environment variables of the hub's own tools apply: `HF_TOKEN`,
    /// `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`; models of a store are kept in `XDG_CACHE_HOME`.
    pub(crate) path: Option<PathBuf>,
    /// Download nothing: use the directory, or what was downloaded before. For the hub, `HF_HUB_OFFLINE` does the same.
    pub(crate) offline: bool,
    /// Device to compute on: `auto`, `cpu`, `cuda` or `cuda:N`. `auto` takes CUDA if it is available.
    pub(crate) device: String,
    /// Weight format: `f32`, `bf16`, `int8` or `w8a8` on the CPU; `bf16`, `f16`, `f32`, `bf16-kv8` or `f16-kv8` on
    /// CUDA; or `fastest`. If unset: `f32` on the CPU, `bf16` on CUDA.
    #[schemars(extend("enum" = format_names()))]
    pub(crate) dtype: Option<String>,
}

/// All values of `dtype`.
fn format_names() -> Vec<Option<&'static str>> {
    FORMATS.map(Some).into_iter().chain([None]).collect()
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self { path: None, offline: false, device: "auto".into(), dtype: None }
    }
}

impl ModelSettings {
    pub(super) fn problems(&self) -> Vec<String> {
        let invalid = self.path.as_deref().and_then(|path| ModelSource::parse(path).err());
        invalid.map(|error| format!("model.path: {error}")).into_iter().collect()
    }
}
