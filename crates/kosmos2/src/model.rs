//! A loaded model: its configuration and its backend.

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
    /// config.json or generation_config.json is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights are unusable.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// A loaded KOSMOS-2 model without its processors.
pub struct Model {
    config: Config,
    end_tokens: Vec<u32>,
    backend: Box<dyn Backend>,
}

impl Model {
    /// Loads the configuration and the weights of a model directory.
    ///
    /// Unknown tensors of the checkpoint are ignored with a warning.
    ///
    /// # Errors
    /// [`LoadError`], which names the file and the tensor.
    pub fn load(dir: &Path, compute: &Compute) -> Result<Self, LoadError> {
        let (config, end_tokens) = Self::read_config(dir)?;
        Self::load_weights(dir, config, end_tokens, compute)
    }

    /// Reads the configuration and the ids that end a text.
    ///
    /// # Errors
    /// [`LoadError::Config`].
    pub(crate) fn read_config(dir: &Path) -> Result<(Config, Vec<u32>), LoadError> {
        let config = Config::from_dir(dir)?;
        let mut end_tokens = GenerationConfig::from_dir(dir)?.end_tokens().to_vec();
        if !end_tokens.contains(&config.text_config.eos_token_id) {
            end_tokens.push(config.text_config.eos_token_id);
        }
        Ok((config, end_tokens))
    }

    /// Loads the weights.
    ///
    /// # Errors
    /// [`LoadError::Checkpoint`].
    pub(crate) fn load_weights(
        dir: &Path,
        config: Config,
        end_tokens: Vec<u32>,
        compute: &Compute,
    ) -> Result<Self, LoadError> {
        let (dtype, device) = checkpoint_target(compute);
        let checkpoint = Checkpoint::open(dir, dtype, &device)?;
        let backend = load_backend(&checkpoint, &config, compute)?;
        let unused = checkpoint.unused();
        if !unused.is_empty() {
            tracing::warn!(dir = %dir.display(), tensors = unused.join(", "), "ignoring unknown tensors of the checkpoint");
        }
        Ok(Self { config, end_tokens, backend })
    }

    /// Creates a model with seeded random weights, without files. For benchmarks and capacity planning.
    ///
    /// ```
    /// use kosmos2::Model;
    /// use kosmos2::compute::{Compute, DeviceChoice};
    /// use kosmos2::config::{Config, TextConfig, VisionConfig};
    /// use kosmos2::processor::image::PixelValues;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let text_config =
    ///     TextConfig { vocab_size: 100, embed_dim: 32, layers: 1, ffn_dim: 64, attention_heads: 2, ..Default::default() };
    /// let vision_config = VisionConfig {
    ///     hidden_size: 32,
    ///     intermediate_size: 64,
    ///     num_hidden_layers: 1,
    ///     num_attention_heads: 2,
    ///     image_size: 28,
    ///     ..VisionConfig::default()
    /// };
    /// let config = Config { text_config, vision_config, latent_query_num: 4, ..Config::default() };
    /// let mut model = Model::random(config, 7, &Compute::open(DeviceChoice::Cpu, None)?)?;
    ///
    /// let pixels = PixelValues::new(vec![0.5; 3 * 28 * 28], 28).ok_or("three planes of 28 × 28 values")?;
    /// let embedding = model.backend().image_embeddings(&[&pixels])?.remove(0);
    /// assert_eq!((embedding.rows(), embedding.row(0).len()), (4, 32));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`LoadError`] if the device has not enough memory.
    pub fn random(config: Config, seed: u64, compute: &Compute) -> Result<Self, LoadError> {
        let (dtype, device) = checkpoint_target(compute);
        let checkpoint = Checkpoint::random(&config, seed, dtype, &device);
        let backend = load_backend(&checkpoint, &config, compute)?;
        Ok(Self { end_tokens: vec![config.text_config.eos_token_id], config, backend })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The ids that end a text.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// The backend.
    pub fn backend(&mut self) -> &mut dyn Backend {
        &mut *self.backend
    }
}

/// The dtype and device that tensors are loaded to. The CPU's kernels pack them from f32.
fn checkpoint_target(compute: &Compute) -> (DType, Device) {
    match compute {
        Compute::Cpu(_) => (DType::F32, Device::Cpu),
        Compute::Candle { device, dtype } => (*dtype, device.clone()),
        // The backend uploads each tensor itself.
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
