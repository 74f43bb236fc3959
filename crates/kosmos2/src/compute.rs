//! Where the model computes and in which number format.

use std::str::FromStr;

pub use candle_core::DType;
use candle_core::Device;
use kernels::cpu::WeightFormat;

/// Why a device or number format cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// Not a device's name.
    #[error("device {0:?} is not known; expected auto, cpu, cuda or cuda:N")]
    UnknownDevice(String),
    /// Not a format's name.
    #[error("dtype {0:?} is not known; expected f32, bf16, f16, int8, w8a8, bf16-kv8, f16-kv8 or fastest")]
    UnknownFormat(String),
    /// A format that the CPU does not compute in.
    #[error("dtype {0} is not served on the CPU; leave it out or ask for f32, bf16, int8 or w8a8")]
    CpuFormat(String),
    /// A format that CUDA does not compute in.
    #[error("dtype {0} is not served on CUDA; leave it out or ask for bf16, f16, f32, bf16-kv8 or f16-kv8")]
    CudaFormat(String),
    /// This program was built without CUDA.
    #[error(
        "device cuda was asked for, but this program was built without it; build with --features cuda or ask for cpu"
    )]
    NoCuda,
    /// The device does not answer.
    #[error("device cuda:{ordinal} cannot be used: {reason}")]
    Device {
        /// Which device.
        ordinal: usize,
        /// What the driver or candle says.
        reason: String,
    },
}

/// The device asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA device where the program was built for one and it answers, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by its number.
    Cuda(usize),
    /// The same, computed on by candle's own operations, where the program was built with them: to compare with.
    CandleCuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = ComputeError;

    fn from_str(text: &str) -> Result<Self, ComputeError> {
        let unknown = || ComputeError::UnknownDevice(text.to_owned());
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            None if text == "candle-cuda" => Ok(Self::CandleCuda(0)),
            Some(("cuda", ordinal)) => ordinal.parse().map(Self::Cuda).map_err(|_| unknown()),
            Some(("candle-cuda", ordinal)) => ordinal.parse().map(Self::CandleCuda).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

/// What a card keeps weights and computes products in, and how it keeps keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CudaFormat {
    /// f32 throughout.
    F32,
    /// bf16, keys and values too.
    Bf16,
    /// f16, keys and values too.
    F16,
    /// bf16; keys and values in 8 bits, with a scale for each token and head.
    Bf16Kv8,
    /// f16; keys and values likewise.
    F16Kv8,
}

impl CudaFormat {
    const ALL: [(&'static str, Self); 5] = [
        ("bf16", Self::Bf16),
        ("f16", Self::F16),
        ("f32", Self::F32),
        ("bf16-kv8", Self::Bf16Kv8),
        ("f16-kv8", Self::F16Kv8),
    ];

    fn named(name: Option<&str>) -> Result<Self, ComputeError> {
        let name = name.unwrap_or("bf16");
        let known = Self::ALL.into_iter().find(|(known, _)| *known == name || (name == "fastest" && *known == "bf16"));
        known.map(|(_, format)| format).ok_or_else(|| match name {
            "int8" | "w8a8" => ComputeError::CudaFormat(name.into()),
            _ => ComputeError::UnknownFormat(name.into()),
        })
    }

    /// Its name, as [`Compute::open`] takes it.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }

    /// What weights are kept and products computed in.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 | Self::Bf16Kv8 => DType::BF16,
            Self::F16 | Self::F16Kv8 => DType::F16,
        }
    }

    /// Whether keys and values are kept in 8 bits.
    pub fn has_small_cache(self) -> bool {
        matches!(self, Self::Bf16Kv8 | Self::F16Kv8)
    }
}

/// A device and the number format to compute in.
#[derive(Debug, Clone)]
pub enum Compute {
    /// The CPU's own kernels; activations are f32, weights are kept in this format.
    Cpu(WeightFormat),
    /// Kernels for NVIDIA cards around cuBLAS's products.
    #[cfg(feature = "cuda-api")]
    Cuda {
        /// The card.
        device: std::sync::Arc<kernels::cuda::Device>,
        /// Weights, products, keys and values.
        format: CudaFormat,
    },
    /// candle's tensors, all in one dtype: what the kernels of either device are held against.
    Candle {
        /// Where.
        device: Device,
        /// f32, bf16 or f16; f32 on the CPU.
        dtype: DType,
    },
}

impl Compute {
    /// Opens the device. `format` is `f32`, `bf16`, `int8` or `w8a8` on the CPU, `bf16`, `f16`, `f32`, `bf16-kv8` or
    /// `f16-kv8` on CUDA; `fastest` is w8a8 on CPUs that multiply bytes, int8 on others and bf16 on CUDA. Left out, the
    /// CPU computes in f32 and CUDA in bf16.
    ///
    /// # Errors
    /// [`ComputeError`] when the device cannot be used or does not serve the format.
    pub fn open(device: DeviceChoice, format: Option<&str>) -> Result<Self, ComputeError> {
        match device {
            DeviceChoice::Cpu => Self::on_cpu(format),
            DeviceChoice::Auto => match on_card(0, format) {
                Err(ComputeError::NoCuda | ComputeError::Device { .. }) => Self::on_cpu(format),
                on_card => on_card,
            },
            DeviceChoice::Cuda(ordinal) => on_card(ordinal, format),
            DeviceChoice::CandleCuda(_) if !candle_core::utils::cuda_is_available() => Err(ComputeError::NoCuda),
            DeviceChoice::CandleCuda(ordinal) => {
                let failed = |source: candle_core::Error| ComputeError::Device { ordinal, reason: source.to_string() };
                Ok(Self::Candle {
                    device: Device::new_cuda(ordinal).map_err(failed)?,
                    dtype: CudaFormat::named(format)?.dtype(),
                })
            }
        }
    }

    fn on_cpu(format: Option<&str>) -> Result<Self, ComputeError> {
        Ok(Self::Cpu(match format.unwrap_or("f32") {
            "f32" => WeightFormat::F32,
            "bf16" => WeightFormat::Bf16,
            "fastest" if kernels::cpu::multiplies_bytes() => WeightFormat::W8A8,
            "int8" | "fastest" => WeightFormat::Int8,
            "w8a8" => WeightFormat::W8A8,
            other @ ("f16" | "bf16-kv8" | "f16-kv8") => return Err(ComputeError::CpuFormat(other.into())),
            other => return Err(ComputeError::UnknownFormat(other.to_owned())),
        }))
    }

    /// The device's kind: `cpu`, `cuda` or `candle-cuda`.
    pub fn device_name(&self) -> &'static str {
        match self {
            #[cfg(feature = "cuda-api")]
            Self::Cuda { .. } => "cuda",
            Self::Candle { device, .. } if device.is_cuda() => "candle-cuda",
            _ => "cpu",
        }
    }

    /// The format's name, as [`Self::open`] takes it.
    pub fn format_name(&self) -> &'static str {
        match self {
            Self::Cpu(WeightFormat::F32) => "f32",
            Self::Cpu(WeightFormat::Bf16) => "bf16",
            Self::Cpu(WeightFormat::Int8) => "int8",
            Self::Cpu(WeightFormat::W8A8) => "w8a8",
            #[cfg(feature = "cuda-api")]
            Self::Cuda { format, .. } => format.name(),
            Self::Candle { dtype, .. } => dtype.as_str(),
        }
    }
}

#[cfg(feature = "cuda-api")]
fn on_card(ordinal: usize, format: Option<&str>) -> Result<Compute, ComputeError> {
    let failed = |error: kernels::cuda::CudaError| ComputeError::Device { ordinal, reason: error.to_string() };
    let device = std::sync::Arc::new(kernels::cuda::Device::open(ordinal).map_err(failed)?);
    Ok(Compute::Cuda { device, format: CudaFormat::named(format)? })
}

#[cfg(not(feature = "cuda-api"))]
fn on_card(_: usize, _: Option<&str>) -> Result<Compute, ComputeError> {
    Err(ComputeError::NoCuda)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_by_name_and_number() {
        assert_eq!("auto".parse::<DeviceChoice>().unwrap(), DeviceChoice::Auto);
        assert_eq!("cuda:3".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(3));
        for bad in ["", "gpu", "cuda:", "cuda:x", "cpu:0"] {
            assert!(bad.parse::<DeviceChoice>().unwrap_err().to_string().contains("expected auto, cpu, cuda"));
        }
    }

    #[test]
    fn the_cpu_computes_in_the_formats_its_kernels_have() {
        let formats = ["f32", "bf16", "int8", "w8a8"].map(|name| (Some(name), name));
        let fastest = if kernels::cpu::multiplies_bytes() { "w8a8" } else { "int8" };
        for (asked, name) in formats.into_iter().chain([(None, "f32"), (Some("fastest"), fastest)]) {
            let compute = Compute::open(DeviceChoice::Cpu, asked).unwrap();
            assert_eq!((compute.device_name(), compute.format_name()), ("cpu", name));
        }
        let error = Compute::open(DeviceChoice::Cpu, Some("f16")).unwrap_err().to_string();
        assert_eq!(error, "dtype f16 is not served on the CPU; leave it out or ask for f32, bf16, int8 or w8a8");
        assert!(
            Compute::open(DeviceChoice::Cpu, Some("bf16-kv8"))
                .unwrap_err()
                .to_string()
                .contains("not served on the CPU")
        );
        assert!(Compute::open(DeviceChoice::Cpu, Some("fp8")).unwrap_err().to_string().contains("expected f32, bf16"));
    }

    #[test]
    fn cards_compute_in_formats_by_name() {
        for (name, format) in CudaFormat::ALL {
            assert_eq!((CudaFormat::named(Some(name)).unwrap(), format.name()), (format, name));
        }
        for either in [None, Some("fastest")] {
            assert_eq!(CudaFormat::named(either).unwrap(), CudaFormat::Bf16);
        }
        for of_the_cpu in ["int8", "w8a8"] {
            assert!(CudaFormat::named(Some(of_the_cpu)).unwrap_err().to_string().contains("not served on CUDA"));
        }
        assert!(CudaFormat::named(Some("kv8")).unwrap_err().to_string().contains("is not known"));
    }
}
