//! Weights of a model directory as Hugging Face lays it out, read tensor by tensor under the checkpoint's own names.
//!
//! Files are tried in this order: `model.safetensors`, `model.safetensors.index.json` with its shards,
//! `pytorch_model.bin`. Files are mapped and their pages released once a tensor is converted, so that loading never
//! holds much more than the weights in the computing dtype.

mod header;
mod identity;
mod pickle;
pub mod random;
mod storage;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

pub use identity::ModelIdentity;
use storage::Storage;

use crate::config::Config;

/// Why weights cannot be loaded. Each message names the file, the tensor where there is one, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// No weight file of a known name.
    #[error(
        "{dir}: no weights found; expected model.safetensors, model.safetensors.index.json with its shards, or pytorch_model.bin"
    )]
    NoWeights {
        /// The model directory.
        dir: String,
    },
    /// A file cannot be read.
    #[error("{file}: cannot be read ({cause})")]
    Read {
        /// Path of the file.
        file: String,
        /// What the system says.
        cause: std::io::Error,
    },
    /// A file is shorter than its header promises.
    #[error("{file}: is cut short: {expected} bytes were expected and {found} found; fetch the file again")]
    Truncated {
        /// Path of the file.
        file: String,
        /// Bytes that the header asks for.
        expected: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// A file is not what its name says.
    #[error("{file}: is not a readable {kind} file ({reason}); fetch the file again")]
    Malformed {
        /// Path of the file.
        file: String,
        /// The format expected.
        kind: &'static str,
        /// The reader's words.
        reason: String,
    },
    /// A tensor is in two files.
    #[error("{file}: holds tensor {tensor}, and so does {other}; the shards are not of one checkpoint")]
    TwoShards {
        /// Path of the one file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// Path of the other.
        other: String,
    },
    /// A tensor is not there.
    #[error(
        "{file}: tensor {tensor} of shape {expected:?}, which config.json asks for, is missing; the file is not a whole KOSMOS-2 checkpoint"
    )]
    MissingTensor {
        /// Path of the file or index.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The shape the configuration asks for.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error("{file}: tensor {tensor} has shape {found:?}, but config.json asks for {expected:?}")]
    Shape {
        /// Path of the file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The shape the configuration asks for.
        expected: Vec<usize>,
        /// The shape stored.
        found: Vec<usize>,
    },
    /// A tensor is stored in a dtype that weights do not come in.
    #[error("{file}: tensor {tensor} is stored as {found}, but f32, f16 or bf16 is expected")]
    StoredDType {
        /// Path of the file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The dtype stored.
        found: String,
    },
    /// Converting a tensor or moving it to the device failed.
    #[error("{file}: tensor {tensor} could not be loaded: {cause}")]
    Tensor {
        /// Path of the file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// candle's error; boxed, since it is larger than all else here.
        cause: Box<candle_core::Error>,
    },
    /// The card did not take the weights.
    #[cfg(feature = "cuda-api")]
    #[error("the weights cannot be put on the card: {0}")]
    Cuda(#[from] kernels::cuda::CudaError),
}

/// An open checkpoint: hands out tensors by name, on one device in one dtype, and remembers which were taken.
pub struct Checkpoint {
    storage: Storage,
    dtype: DType,
    device: Device,
    taken: Mutex<BTreeSet<String>>,
}

impl Checkpoint {
    /// Opens the weights of a model directory without reading any tensor yet.
    ///
    /// # Errors
    /// [`CheckpointError`] when there are none, or a file is cut short or malformed.
    pub fn open(dir: &Path, dtype: DType, device: &Device) -> Result<Self, CheckpointError> {
        let storage = Storage::open(dir)?;
        Ok(Self { storage, dtype, device: device.clone(), taken: Mutex::default() })
    }

    /// A checkpoint of seeded random weights (see [`random`]) that is in no file.
    pub fn random(config: &Config, seed: u64, dtype: DType, device: &Device) -> Self {
        let storage = Storage::Random { seed, shapes: random::tensors(config).into_iter().collect() };
        Self { storage, dtype, device: device.clone(), taken: Mutex::default() }
    }

    /// The scope of all names.
    pub fn root(&self) -> Weights<'_> {
        Weights { checkpoint: self, prefix: String::new() }
    }

    /// The computing dtype.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device tensors are put on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Stored tensors that nobody took and that are not known leftovers, in order of name.
    pub fn surplus(&self) -> Vec<String> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<String> = self
            .storage
            .names()
            .filter(|name| !taken.contains(*name) && !is_leftover(name))
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    fn load(&self, name: String, shape: &[usize]) -> Result<Tensor, CheckpointError> {
        let tensor = self.storage.load(&name, shape, self.dtype, &self.device)?;
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        Ok(tensor)
    }
}

/// Buffers that older transformers releases stored and that are recomputed here, and a stored copy of the tied head.
fn is_leftover(name: &str) -> bool {
    name.ends_with(".position_ids")
        || name.ends_with("embed_positions.weights")
        || name.ends_with("embed_positions._float_tensor")
        || name == "text_model.lm_head.weight"
}

/// A scope of names in a [`Checkpoint`].
#[derive(Clone)]
pub struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    prefix: String,
}

impl Weights<'_> {
    /// The scope `name` within this one.
    #[must_use]
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        let prefix = if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Self { checkpoint: self.checkpoint, prefix }
    }

    /// The tensor `name` of this scope, in the checkpoint's computing dtype on its device.
    ///
    /// # Errors
    /// [`CheckpointError`] when it is missing or has another shape or kind than expected.
    pub fn get(&self, shape: impl AsRef<[usize]>, name: &str) -> Result<Tensor, CheckpointError> {
        self.checkpoint.load(self.pp(name).prefix, shape.as_ref())
    }

    /// The checkpoint's computing dtype.
    pub fn dtype(&self) -> DType {
        self.checkpoint.dtype
    }

    /// The checkpoint's device.
    pub fn device(&self) -> &Device {
        &self.checkpoint.device
    }
}

/// The weight files of a model directory, in the order of preference of this module; shards are sorted by name.
pub(crate) fn weight_files(dir: &Path) -> Result<WeightFiles, CheckpointError> {
    let single = dir.join("model.safetensors");
    if single.is_file() {
        return Ok(WeightFiles::Safetensors { origin: single.clone(), shards: vec![single] });
    }
    let index = dir.join("model.safetensors.index.json");
    if index.is_file() {
        return Ok(WeightFiles::Safetensors { shards: storage::shards_of(&index, dir)?, origin: index });
    }
    let pickle = dir.join("pytorch_model.bin");
    if pickle.is_file() {
        return Ok(WeightFiles::Pickle(pickle));
    }
    Err(CheckpointError::NoWeights { dir: dir.display().to_string() })
}

/// Which files hold the weights.
pub(crate) enum WeightFiles {
    Safetensors {
        /// The file that errors about absent tensors name.
        origin: PathBuf,
        shards: Vec<PathBuf>,
    },
    Pickle(PathBuf),
}
