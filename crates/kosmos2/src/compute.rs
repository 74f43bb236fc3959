//! Where the model computes and in which number format.

use std::str::FromStr;

use candle_core::{DType, Device};
use kernels::cpu::WeightFormat;

/// Why a device or number format cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// Not a device's name.
    #[error("device {0:?} is not known; expected auto, cpu, cuda or cuda:N")]
    UnknownDevice(String),
    /// Not a format's name.
    #[error("dtype {0:?} is not known; expected f32, bf16, f16, int8 or fastest")]
    UnknownFormat(String),
    /// A format that the CPU does not compute in.
    #[error("dtype {0} is not served on the CPU; leave it out or ask for f32, bf16 or int8")]
    CpuFormat(String),
    /// A format that CUDA does not compute in.
    #[error("dtype {0} is not served on CUDA; leave it out or ask for bf16, f16 or f32")]
    CudaFormat(String),
    /// This program was built without CUDA.
    #[error(
        "device cuda was asked for, but this program was built without it; build with --features cuda or ask for cpu"
    )]
    NoCuda,
    /// The device does not answer.
    #[error("device cuda:{ordinal} cannot be used: {source}")]
    Device {
        /// Which device.
        ordinal: usize,
        /// candle's error.
        source: candle_core::Error,
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
}

impl FromStr for DeviceChoice {
    type Err = ComputeError;

    fn from_str(text: &str) -> Result<Self, ComputeError> {
        let unknown = || ComputeError::UnknownDevice(text.to_owned());
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", ordinal)) => ordinal.parse().map(Self::Cuda).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

/// A device and the number format to compute in.
#[derive(Debug, Clone)]
pub enum Compute {
    /// The CPU's own kernels; activations are f32, weights are kept in this format.
    Cpu(WeightFormat),
    /// candle's tensors, all in one dtype: CUDA, and on the CPU the reference that the kernels are held against.
    Candle {
        /// Where.
        device: Device,
        /// f32, bf16 or f16; f32 on the CPU.
        dtype: DType,
    },
}

impl Compute {
    /// Opens the device. `format` is `f32`, `bf16` or `int8` on the CPU, `bf16`, `f16` or `f32` on CUDA; `fastest` is
    /// int8 on the CPU and bf16 on CUDA. Left out, the CPU computes in f32 and CUDA in bf16.
    ///
    /// # Errors
    /// [`ComputeError`] when the device cannot be used or does not serve the format.
    pub fn open(device: DeviceChoice, format: Option<&str>) -> Result<Self, ComputeError> {
        let cuda = |ordinal| Device::new_cuda(ordinal).map_err(|source| ComputeError::Device { ordinal, source });
        let cuda_built_in = candle_core::utils::cuda_is_available();
        let device = match device {
            DeviceChoice::Cpu => None,
            DeviceChoice::Auto => cuda_built_in.then(|| cuda(0).ok()).flatten(),
            DeviceChoice::Cuda(_) if !cuda_built_in => return Err(ComputeError::NoCuda),
            DeviceChoice::Cuda(ordinal) => Some(cuda(ordinal)?),
        };
        let unknown = |other: &str| ComputeError::UnknownFormat(other.to_owned());
        match device {
            None => Ok(Self::Cpu(match format.unwrap_or("f32") {
                "f32" => WeightFormat::F32,
                "bf16" => WeightFormat::Bf16,
                "int8" | "fastest" => WeightFormat::Int8,
                "f16" => return Err(ComputeError::CpuFormat("f16".into())),
                other => return Err(unknown(other)),
            })),
            Some(device) => Ok(Self::Candle {
                device,
                dtype: match format.unwrap_or("bf16") {
                    "bf16" | "fastest" => DType::BF16,
                    "f16" => DType::F16,
                    "f32" => DType::F32,
                    "int8" => return Err(ComputeError::CudaFormat("int8".into())),
                    other => return Err(unknown(other)),
                },
            }),
        }
    }

    /// The device's kind: `cpu` or `cuda`.
    pub fn device_name(&self) -> &'static str {
        match self {
            Self::Candle { device, .. } if device.is_cuda() => "cuda",
            _ => "cpu",
        }
    }

    /// The format's name, as [`Self::open`] takes it.
    pub fn format_name(&self) -> &'static str {
        match self {
            Self::Cpu(WeightFormat::F32) => "f32",
            Self::Cpu(WeightFormat::Bf16) => "bf16",
            Self::Cpu(WeightFormat::Int8) => "int8",
            Self::Candle { dtype, .. } => dtype.as_str(),
        }
    }
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
        for (asked, name) in [(None, "f32"), (Some("bf16"), "bf16"), (Some("int8"), "int8"), (Some("fastest"), "int8")]
        {
            let compute = Compute::open(DeviceChoice::Cpu, asked).unwrap();
            assert_eq!((compute.device_name(), compute.format_name()), ("cpu", name));
        }
        let error = Compute::open(DeviceChoice::Cpu, Some("f16")).unwrap_err().to_string();
        assert_eq!(error, "dtype f16 is not served on the CPU; leave it out or ask for f32, bf16 or int8");
        assert!(Compute::open(DeviceChoice::Cpu, Some("fp8")).unwrap_err().to_string().contains("expected f32, bf16"));
    }
}
