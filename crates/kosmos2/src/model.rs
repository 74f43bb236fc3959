//! A loaded model: its configuration and the backend that computes it.

use std::path::Path;

use candle_core::{DType, Device};

use crate::backend::Backend;
use crate::backend::candle::CandleBackend;
use crate::backend::cpu::CpuBackend;
#[cfg(feature = "cuda-api")]
use crate::backend::cuda::CudaBackend;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::compute::Compute;
#[cfg(feature = "cuda-api")]
use crate::compute::CudaFormat;
use crate::config::{Config, ConfigError, GenerationConfig};
use crate::generation::OptionsError;

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its config.json or generation_config.json.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Why a generation failed.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// An option is out of its range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The model gave no finite logits.
    #[error("the model's logits are not finite; the weights are damaged or the number format is too narrow for them")]
    NotFinite,
    /// A prompt that does not fit its picture.
    #[error("the prompt has {found} image placeholders, but the picture has {expected} embeddings")]
    Placeholders {
        /// Marked places in the prompt.
        found: usize,
        /// Latent queries of the model.
        expected: usize,
    },
    /// A prompt of no tokens.
    #[error("the prompt has no tokens; ask for special tokens or give some text")]
    EmptyPrompt,
    /// A picture of another size than the model's.
    #[error("the picture has been resized to {found} pixels a side, but the model takes {expected}")]
    PictureSize {
        /// Its side.
        found: usize,
        /// The model's.
        expected: usize,
    },
    /// An id beyond the vocabulary.
    #[error("token {token} is beyond the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A sequence longer than what was reserved for it.
    #[error("a sequence of {tokens} tokens does not fit a slot of {length}")]
    SlotTooShort {
        /// Tokens of the sequence.
        tokens: usize,
        /// Tokens a slot has room for.
        length: usize,
    },
    /// A tensor operation failed.
    #[error("the computation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The card failed.
    #[cfg(feature = "cuda-api")]
    #[error("the computation failed: {0}")]
    Cuda(#[from] kernels::cuda::CudaError),
}

/// A loaded KOSMOS-2.
pub struct Model {
    config: Config,
    end_tokens: Vec<u32>,
    backend: Box<dyn Backend>,
}

impl Model {
    /// Loads the configuration and the weights of a model directory.
    ///
    /// Tensors that the model does not know are named in a warning and passed over.
    ///
    /// # Errors
    /// [`LoadError`], naming the file and the tensor.
    pub fn load(dir: &Path, compute: &Compute) -> Result<Self, LoadError> {
        let (config, end_tokens) = Self::read_config(dir)?;
        Self::load_weights(dir, config, end_tokens, compute)
    }

    /// The configuration, and the ids that end a text.
    pub(crate) fn read_config(dir: &Path) -> Result<(Config, Vec<u32>), LoadError> {
        let config = Config::from_dir(dir)?;
        let mut end_tokens = GenerationConfig::from_dir(dir)?.end_tokens().to_vec();
        if !end_tokens.contains(&config.text_config.eos_token_id) {
            end_tokens.push(config.text_config.eos_token_id);
        }
        Ok((config, end_tokens))
    }

    /// The rest of [`Self::load`].
    pub(crate) fn load_weights(
        dir: &Path,
        config: Config,
        end_tokens: Vec<u32>,
        compute: &Compute,
    ) -> Result<Self, LoadError> {
        let (dtype, device) = checkpoint_place(compute);
        let checkpoint = Checkpoint::open(dir, dtype, &device)?;
        let backend = load_backend(&checkpoint, &config, compute)?;
        let surplus = checkpoint.surplus();
        if !surplus.is_empty() {
            tracing::warn!(dir = %dir.display(), tensors = surplus.join(", "), "the checkpoint holds tensors that KOSMOS-2 does not have; they are ignored");
        }
        Ok(Self { config, end_tokens, backend })
    }

    /// A model of this configuration with seeded random weights, made without any file: for benchmarks and planning.
    ///
    /// # Errors
    /// [`LoadError`] when the device has no room for it.
    pub fn random(config: Config, seed: u64, compute: &Compute) -> Result<Self, LoadError> {
        let (dtype, device) = checkpoint_place(compute);
        let checkpoint = Checkpoint::random(&config, seed, dtype, &device);
        let backend = load_backend(&checkpoint, &config, compute)?;
        Ok(Self { end_tokens: vec![config.text_config.eos_token_id], config, backend })
    }

    /// The configuration loaded.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Ids that end a text.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// What computes.
    pub fn backend(&mut self) -> &mut dyn Backend {
        &mut *self.backend
    }
}

/// In which dtype and where tensors are read: the CPU's kernels pack them from f32 themselves.
fn checkpoint_place(compute: &Compute) -> (DType, Device) {
    match compute {
        Compute::Cpu(_) => (DType::F32, Device::Cpu),
        Compute::Candle { device, dtype } => (*dtype, device.clone()),
        // Each tensor goes to the card as it is read.
        #[cfg(feature = "cuda-api")]
        Compute::Cuda { format, .. } => (format.dtype(), Device::Cpu),
    }
}

fn load_backend(
    checkpoint: &Checkpoint,
    config: &Config,
    compute: &Compute,
) -> Result<Box<dyn Backend>, CheckpointError> {
    Ok(match compute {
        Compute::Cpu(format) => Box::new(CpuBackend::load(checkpoint, config, *format)?),
        Compute::Candle { .. } => Box::new(CandleBackend::load(checkpoint, config)?),
        #[cfg(feature = "cuda-api")]
        Compute::Cuda { device, format } => match format {
            CudaFormat::F32 => Box::new(CudaBackend::<f32>::load(device, checkpoint, config)?),
            CudaFormat::Bf16 => Box::new(CudaBackend::<half::bf16>::load(device, checkpoint, config)?),
            CudaFormat::F16 => Box::new(CudaBackend::<half::f16>::load(device, checkpoint, config)?),
            CudaFormat::Bf16Kv8 => Box::new(CudaBackend::<half::bf16, i8>::load(device, checkpoint, config)?),
            CudaFormat::F16Kv8 => Box::new(CudaBackend::<half::f16, i8>::load(device, checkpoint, config)?),
        },
    })
}
