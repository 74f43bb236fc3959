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
