//! Checkpoints: the weights of a model directory in the layout of Hugging Face, read by tensor name.
//!
//! Files are tried in this order: `model.safetensors`, `model.safetensors.index.json` with its shards,
//! `pytorch_model.bin`. Files are memory-mapped, and their pages are released once a tensor is converted, so that
//! loading takes little more memory than the weights in the compute dtype.

mod error;
mod files;
mod header;
mod identity;
mod location;
mod pickle;
pub mod random;
mod storage;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

pub use error::CheckpointError;
pub use identity::ModelIdentity;
use storage::Storage;

use crate::config::Config;

/// An open checkpoint. Loads tensors by name, on one device and in one dtype, and records which have been loaded.
pub struct Checkpoint {
    storage: Storage,
    dtype: DType,
    device: Device,
    loaded: Mutex<BTreeSet<String>>,
}

impl Checkpoint {
    /// Opens the weights of a model directory. Reads the headers and no tensors.
    ///
    /// # Errors
    /// [`CheckpointError`] if there are no weights, or a file is unreadable, truncated or malformed.
    pub fn open(dir: &Path, dtype: DType, device: &Device) -> Result<Self, CheckpointError> {
        let storage = Storage::open(dir)?;
        Ok(Self { storage, dtype, device: device.clone(), loaded: Mutex::default() })
    }

    /// A checkpoint of seeded random weights (see [`random`]), without files.
    pub fn random(config: &Config, seed: u64, dtype: DType, device: &Device) -> Self {
        let storage = Storage::Random { seed, shapes: random::tensors(config).into_iter().collect() };
        Self { storage, dtype, device: device.clone(), loaded: Mutex::default() }
    }

    /// The scope of all tensors.
    pub fn root(&self) -> Weights<'_> {
        Weights { checkpoint: self, prefix: String::new() }
    }

    /// The dtype that tensors are converted to.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device that tensors are loaded to.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Names of stored tensors that have not been loaded, sorted, without those that are known to be unused.
    pub fn unused(&self) -> Vec<String> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<String> = self
            .storage
            .names()
            .filter(|name| !loaded.contains(*name) && !is_known_unused(name))
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    fn load(&self, name: String, shape: &[usize]) -> Result<Tensor, CheckpointError> {
        let tensor = self.storage.load(&name, shape, self.dtype, &self.device)?;
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        Ok(tensor)
    }
}

/// Buffers that older releases of transformers stored and that are recomputed here, and a copy of the tied head.
fn is_known_unused(name: &str) -> bool {
    name.ends_with(".position_ids")
        || name.ends_with("embed_positions.weights")
        || name.ends_with("embed_positions._float_tensor")
        || name == "text_model.lm_head.weight"
}

/// A scope of tensor names in a [`Checkpoint`].
#[derive(Clone)]
pub struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    prefix: String,
}

impl Weights<'_> {
    /// The scope `name` within this scope.
    #[must_use]
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        let prefix = if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Self { checkpoint: self.checkpoint, prefix }
    }

    /// Loads the tensor `name` of this scope in the checkpoint's dtype and on its device.
    ///
    /// # Errors
    /// [`CheckpointError`] if it is missing, does not have the given shape, or is stored in an unsupported dtype.
    pub fn get(&self, shape: impl AsRef<[usize]>, name: &str) -> Result<Tensor, CheckpointError> {
        self.checkpoint.load(self.pp(name).prefix, shape.as_ref())
    }
}
