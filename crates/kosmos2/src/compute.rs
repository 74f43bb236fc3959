//! The device that computes the model, and the number format.

use std::str::FromStr;

pub use candle_core::DType;
use candle_core::Device;
use kernels::cpu::WeightFormat;

/// The names of all number formats. [`DeviceChoice::check_format`] says which of them a device has.
pub const FORMATS: [&str; 8] = ["f32", "bf16", "f16", "int8", "w8a8", "bf16-kv8", "f16-kv8", "fastest"];

/// Why a device or number format cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// The device's name is unknown.
    #[error("device {0:?} is not known; expected auto, cpu, cuda or cuda:N")]
    UnknownDevice(String),
    /// The format's name is unknown.
    #[error("dtype {0:?} is not known; expected f32, bf16, f16, int8, w8a8, bf16-kv8, f16-kv8 or fastest")]
    UnknownFormat(String),
    /// The CPU does not support the format.
    #[error("dtype {0} is not supported on the CPU; leave it out or use f32, bf16, int8 or w8a8")]
    CpuFormat(String),
    /// CUDA does not support the format.
    #[error("dtype {0} is not supported on CUDA; leave it out or use bf16, f16, f32, bf16-kv8 or f16-kv8")]
    CudaFormat(String),
    /// This program was built without CUDA.
    #[error("device cuda was requested, but this program was built without it; build with --features cuda or use cpu")]
    NoCuda,
    /// The device is not usable.
    #[error("device cuda:{ordinal} cannot be used: {reason}")]
    Device {
        /// Number of the device.
        ordinal: usize,
        /// The error of the driver or of candle.
        reason: String,
    },
}

/// The requested device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA device if the program supports CUDA and the device is usable, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by its number.
    Cuda(usize),
    /// A CUDA device with candle's own kernels, for comparisons. Needs the feature `candle-cuda`.
    CandleCuda(usize),
}

impl DeviceChoice {
    /// Checks that the device has the format, without opening it. `Auto` may become either device, so one of them must.
    ///
    /// # Errors
    /// [`ComputeError`] if the format is unknown or the device does not support it.
    pub fn check_format(self, format: Option<&str>) -> Result<(), ComputeError> {
        match self {
            Self::Cpu => cpu_format(format).map(drop),
            Self::Cuda(_) | Self::CandleCuda(_) => CudaFormat::named(format).map(drop),
            Self::Auto if CudaFormat::named(format).is_ok() => Ok(()),
            Self::Auto => cpu_format(format).map(drop),
        }
    }
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

/// Number format of the CUDA backend: of weights and matrix products, and of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CudaFormat {
    /// f32.
    F32,
    /// bf16.
    Bf16,
    /// f16.
    F16,
    /// bf16, with keys and values in 8 bits and a scale for each token and head.
    Bf16Kv8,
    /// f16, with keys and values in 8 bits and a scale for each token and head.
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

    /// The name that [`Compute::open`] takes.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }

    /// The format of weights and matrix products.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 | Self::Bf16Kv8 => DType::BF16,
            Self::F16 | Self::F16Kv8 => DType::F16,
        }
    }

    /// Whether keys and values are stored in 8 bits.
    pub fn has_8_bit_cache(self) -> bool {
        matches!(self, Self::Bf16Kv8 | Self::F16Kv8)
    }
}

/// An open device and its number format.
#[derive(Debug, Clone)]
pub enum Compute {
    /// The kernels for CPUs. Activations are f32, weights are stored in this format, keys and values in its
    /// [`cache_format`](WeightFormat::cache_format).
    Cpu(WeightFormat),
    /// The kernels for NVIDIA GPUs, with cuBLAS for matrix products.
    #[cfg(feature = "cuda-api")]
    Cuda {
        /// The GPU.
        device: std::sync::Arc<kernels::cuda::Device>,
        /// Format of weights, products, keys and values.
        format: CudaFormat,
    },
    /// The plain candle implementation, in one dtype. The kernels of both devices are tested against it.
    Candle {
        /// The device.
        device: Device,
        /// f32, bf16 or f16; on the CPU f32.
        dtype: DType,
    },
}

impl Compute {
    /// Opens a device. `format` is `f32`, `bf16`, `int8` or `w8a8` on the CPU, and `bf16`, `f16`, `f32`, `bf16-kv8` or
    /// `f16-kv8` on CUDA. `fastest` is w8a8 on CPUs with instructions for 8-bit products, int8 on other CPUs and bf16
    /// on CUDA. The default is f32 on the CPU and bf16 on CUDA.
    ///
    /// # Errors
    /// [`ComputeError`] if a name is unknown, the device is not usable or does not support the format.
    pub fn open(device: DeviceChoice, format: Option<&str>) -> Result<Self, ComputeError> {
        match device {
            DeviceChoice::Cpu => Self::on_cpu(format),
            DeviceChoice::Auto => match on_cuda(0, format) {
                Err(ComputeError::NoCuda | ComputeError::Device { .. }) => Self::on_cpu(format),
                on_cuda => on_cuda,
            },
            DeviceChoice::Cuda(ordinal) => on_cuda(ordinal, format),
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
        Ok(Self::Cpu(cpu_format(format)?))
    }

    /// Whether the device is a GPU.
    pub fn is_gpu(&self) -> bool {
        match self {
            Self::Cpu(_) => false,
            #[cfg(feature = "cuda-api")]
            Self::Cuda { .. } => true,
            Self::Candle { device, .. } => !device.is_cpu(),
        }
    }

    /// The PCI bus id of an NVIDIA GPU, for example `0000:65:00.0`; `None` for other devices, and with candle's CUDA.
    pub fn pci_bus_id(&self) -> Option<String> {
        match self {
            Self::Cpu(_) | Self::Candle { .. } => None,
            #[cfg(feature = "cuda-api")]
            Self::Cuda { device, .. } => device.pci_bus_id().ok().flatten(),
        }
    }

    /// The kind of device: `cpu`, `cuda` or `candle-cuda`.
    pub fn device_name(&self) -> &'static str {
        match self {
            #[cfg(feature = "cuda-api")]
            Self::Cuda { .. } => "cuda",
            Self::Candle { device, .. } if device.is_cuda() => "candle-cuda",
            _ => "cpu",
        }
    }

    /// The format's name that [`Self::open`] takes.
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

fn cpu_format(name: Option<&str>) -> Result<WeightFormat, ComputeError> {
    Ok(match name.unwrap_or("f32") {
        "f32" => WeightFormat::F32,
        "bf16" => WeightFormat::Bf16,
        "fastest" if kernels::cpu::multiplies_bytes() => WeightFormat::W8A8,
        "int8" | "fastest" => WeightFormat::Int8,
        "w8a8" => WeightFormat::W8A8,
        other @ ("f16" | "bf16-kv8" | "f16-kv8") => return Err(ComputeError::CpuFormat(other.into())),
        other => return Err(ComputeError::UnknownFormat(other.to_owned())),
    })
}

#[cfg(feature = "cuda-api")]
fn on_cuda(ordinal: usize, format: Option<&str>) -> Result<Compute, ComputeError> {
    let failed = |error: kernels::cuda::CudaError| ComputeError::Device { ordinal, reason: error.to_string() };
    let device = std::sync::Arc::new(kernels::cuda::Device::open(ordinal).map_err(failed)?);
    Ok(Compute::Cuda { device, format: CudaFormat::named(format)? })
}

#[cfg(not(feature = "cuda-api"))]
fn on_cuda(_: usize, _: Option<&str>) -> Result<Compute, ComputeError> {
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
        for (format, name) in formats.into_iter().chain([(None, "f32"), (Some("fastest"), fastest)]) {
            let compute = Compute::open(DeviceChoice::Cpu, format).unwrap();
            assert_eq!((compute.device_name(), compute.format_name()), ("cpu", name));
        }
        let error = Compute::open(DeviceChoice::Cpu, Some("f16")).unwrap_err().to_string();
        assert_eq!(error, "dtype f16 is not supported on the CPU; leave it out or use f32, bf16, int8 or w8a8");
        assert!(
            Compute::open(DeviceChoice::Cpu, Some("bf16-kv8"))
                .unwrap_err()
                .to_string()
                .contains("not supported on the CPU")
        );
        assert!(Compute::open(DeviceChoice::Cpu, Some("fp8")).unwrap_err().to_string().contains("expected f32, bf16"));
    }

    #[test]
    fn a_format_is_checked_as_it_is_opened() {
        let unknown = DeviceChoice::Auto.check_format(Some("fp16")).unwrap_err().to_string();
        for format in FORMATS.map(Some).into_iter().chain([None, Some("fp16"), Some("")]) {
            let [checked, opened] =
                [DeviceChoice::Cpu.check_format(format), Compute::open(DeviceChoice::Cpu, format).map(drop)]
                    .map(|result| result.map_err(|error| error.to_string()));
            assert_eq!(checked, opened, "{format:?}");
            let on_cuda = DeviceChoice::Cuda(0).check_format(format).is_ok();
            assert_eq!(on_cuda, CudaFormat::named(format).is_ok(), "{format:?}");
            let on_any = DeviceChoice::Auto.check_format(format).is_ok();
            assert_eq!(on_any, on_cuda || checked.is_ok(), "{format:?}");
            assert_eq!(on_any, format.is_none_or(|format| FORMATS.contains(&format)), "{format:?}");
            assert!(format.is_none_or(|format| unknown.contains(format)), "{format:?}");
        }
    }

    #[test]
    fn cards_compute_in_formats_by_name() {
        for (name, format) in CudaFormat::ALL {
            assert_eq!((CudaFormat::named(Some(name)).unwrap(), format.name()), (format, name));
        }
        for name in [None, Some("fastest")] {
            assert_eq!(CudaFormat::named(name).unwrap(), CudaFormat::Bf16);
        }
        for cpu_format in ["int8", "w8a8"] {
            assert!(CudaFormat::named(Some(cpu_format)).unwrap_err().to_string().contains("not supported on CUDA"));
        }
        assert!(CudaFormat::named(Some("kv8")).unwrap_err().to_string().contains("is not known"));
    }
}
