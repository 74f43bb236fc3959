//! A lower bound on the time of a batch, from the operations and memory reads that it requires and the machine's
//! measured rates.

use kernels::cpu::WeightFormat;
use kernels::cpu::rates::{fma_gflops, read_gb_per_s};
use kosmos2::compute::Compute;
use kosmos2::config::Config;

/// Measured rates of this machine, per second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    operations: f64,
    bytes: f64,
}

impl Limits {
    /// Measures the rates; `None` for the plain candle backend.
    pub(super) fn measure(compute: &Compute) -> anyhow::Result<Option<Self>> {
        match compute {
            Compute::Cpu(format) => {
                let threads = std::thread::available_parallelism().map_or(1, usize::from);
                let (operations, bytes) = (fma_gflops(*format, threads) * 1e9, read_gb_per_s(threads) * 1e9);
                Ok(Some(Self { operations, bytes }))
            }
            #[cfg(feature = "cuda-api")]
            Compute::Cuda { device, format } => {
                let operations = gpu::product_flops(device, format.dtype())?;
                Ok(Some(Self { operations, bytes: kernels::cuda::rates::copied_bytes(device)? }))
            }
            Compute::Candle { .. } => Ok(None),
        }
    }
}

/// The lower bound in seconds: each stage takes the time of its operations or of its reads, whichever is longer.
pub(super) fn seconds(config: &Config, compute: &Compute, batch: usize, new_tokens: usize, limits: &Limits) -> f64 {
    let Limits { operations, bytes } = *limits;
    let stage = |flops: f64, read: f64| (flops / operations).max(read / bytes);
    let weight_bytes = match compute {
        Compute::Cpu(WeightFormat::F32) => 4.0,
        Compute::Cpu(WeightFormat::Bf16) => 2.0,
        // With a scale of four bytes for each group of 128 weights.
        Compute::Cpu(WeightFormat::Int8) => 1.0 + 4.0 / 128.0,
        // With a sum of four bytes in addition.
        Compute::Cpu(WeightFormat::W8A8) => 1.0 + 8.0 / 128.0,
        Compute::Candle { dtype, .. } => dtype.size_in_bytes() as f64,
        #[cfg(feature = "cuda-api")]
        Compute::Cuda { format, .. } => format.dtype().size_in_bytes() as f64,
    };
    let cache_bytes = match compute {
        Compute::Cpu(format) => format.cache_format().element_bytes() as f64,
        // With a scale of four bytes for each key and each value of a head.
        #[cfg(feature = "cuda-api")]
        Compute::Cuda { format, .. } if format.has_8_bit_cache() => {
            1.0 + 4.0 * config.text_config.attention_heads as f64 / config.text_config.embed_dim as f64
        }
        _ => weight_bytes,
    };
    let (batch, count) = (batch as f64, Counts::of(config));
    let prompt = count.prompt;
    let vision = stage(batch * count.vision_flops, count.vision_weights * weight_bytes);
    let prefill_flops = 2.0 * count.layer_weights * prompt + 2.0 * count.head_weights;
    let decoder_bytes = (count.layer_weights + count.head_weights) * weight_bytes;
    let prefill = stage(batch * prefill_flops, decoder_bytes);
    let step = |at: usize| {
        let cached = batch * (prompt + at as f64) * count.cache_values_per_token * cache_bytes;
        stage(batch * 2.0 * (count.layer_weights + count.head_weights), decoder_bytes + cached)
    };
    vision + prefill + (1..new_tokens).map(step).sum::<f64>()
}

/// Weights and operations of the matrix products. All else is ignored.
struct Counts {
    prompt: f64,
    vision_weights: f64,
    vision_flops: f64,
    layer_weights: f64,
    head_weights: f64,
    cache_values_per_token: f64,
}

impl Counts {
    fn of(config: &Config) -> Self {
        let (vision, text) = (&config.vision_config, &config.text_config);
        let (hidden, inner) = (vision.hidden_size as f64, vision.intermediate_size as f64);
        let (width, latent) = (text.embed_dim as f64, config.latent_query_num as f64);
        let tokens = vision.patches() as f64 + 1.0;
        let layers = vision.num_hidden_layers as f64;
        let tower = layers * (4.0 * hidden * hidden + 2.0 * hidden * inner);
        let attention = layers * 4.0 * tokens * tokens * hidden;
        let projection_weights = hidden * width + 4.0 * width * width;
        let projection = 2.0 * (tokens * (hidden * width + 2.0 * width * width) + latent * width * width)
            + 4.0 * latent * (tokens + latent) * width;
        let text_layers = text.layers as f64;
        Self {
            prompt: super::measure::prompt(config).input_ids.len() as f64,
            vision_weights: tower + projection_weights,
            vision_flops: 2.0 * tokens * tower + attention + projection,
            layer_weights: text_layers * (4.0 * width * width + 2.0 * width * text.ffn_dim as f64),
            head_weights: width * text.vocab_size as f64,
            cache_values_per_token: text_layers * 2.0 * width,
        }
    }
}

#[cfg(feature = "cuda-api")]
mod gpu {
    use half::{bf16, f16};
    use kernels::cuda::rates;
    use kernels::cuda::{CudaError, Device, Format};

    /// Operations per second of a large matrix product in this dtype.
    pub(super) fn product_flops(device: &Device, dtype: kosmos2::compute::DType) -> Result<f64, CudaError> {
        match dtype {
            kosmos2::compute::DType::BF16 => rates::product_flops(device, &values::<bf16>()),
            kosmos2::compute::DType::F16 => rates::product_flops(device, &values::<f16>()),
            _ => rates::product_flops(device, &values::<f32>()),
        }
    }

    /// Values of different signs and magnitudes, since GPUs are faster on equal values.
    fn values<T: Format>() -> Vec<T> {
        let value = |n: u32| (n.wrapping_mul(2_654_435_769) >> 8) as f32 / (1 << 23) as f32 - 1.0;
        (0..4099).map(|n| <T as Format>::from_f32(value(n))).collect()
    }
}
