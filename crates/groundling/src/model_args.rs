//! Options of several commands for the model. The doc comments are the help texts.

use std::path::PathBuf;

use clap::Args;

use crate::arg_values::path;

/// The model and its device.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// Model: a directory (a local Hugging Face checkpoint), `hf://OWNER/NAME[@REVISION][/FOLDER]` or s3://BUCKET/PREFIX.
    ///
    /// Models of the hub and of a store are downloaded once, into HF_HOME or XDG_CACHE_HOME.
    #[arg(long, value_name = "MODEL", env = "GROUNDLING_MODEL", value_parser = path())]
    pub(crate) model: Option<PathBuf>,
    /// Do not download: use the directory, or what was downloaded before.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Device to compute on: auto, cpu, cuda or cuda:N [default: auto].
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Weight format: f32, bf16, int8 or w8a8 on the CPU; bf16, f16, f32, bf16-kv8 or f16-kv8 on CUDA; or fastest
    /// [default: f32 on the CPU, bf16 on CUDA].
    #[arg(long)]
    pub(crate) dtype: Option<String>,
    /// Maximum number of sequences decoded together
    /// [default: as many as fit the memory, up to 32 on the CPU and 1024 on CUDA].
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<usize>,
}
