//! Where the model computes and in which number format.

use std::str::FromStr;

use candle_core::{DType, Device};

/// Why a device or dtype cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// Not a device's name.
    #[error("device {0:?} is not known; expected auto, cpu, cuda or cuda:N")]
    UnknownDevice(String),
    /// Not a dtype's name.
    #[error("dtype {0:?} is not known; expected f32, bf16 or f16")]
    UnknownDType(String),
    /// The CPU computes in f32 only.
    #[error("dtype {0} is not served on the CPU; leave it out or ask for f32")]
    CpuDType(String),
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

/// A device and the dtype to compute in.
#[derive(Debug, Clone)]
pub struct Compute {
    /// Where.
    pub device: Device,
    /// In what: f32 on the CPU; f32, bf16 or f16 on CUDA.
    pub dtype: DType,
}

impl Compute {
    /// Opens the device. Without a dtype asked for, the CPU computes in f32 and CUDA in bf16.
    ///
    /// # Errors
    /// [`ComputeError`] when the device cannot be used or does not serve the dtype.
    pub fn open(device: DeviceChoice, dtype: Option<&str>) -> Result<Self, ComputeError> {
        let asked = dtype.map(parse_dtype).transpose()?;
        let device = match device {
            DeviceChoice::Cpu => Device::Cpu,
            DeviceChoice::Auto if !candle_core::utils::cuda_is_available() => Device::Cpu,
            DeviceChoice::Auto => Device::new_cuda(0).unwrap_or(Device::Cpu),
            DeviceChoice::Cuda(_) if !candle_core::utils::cuda_is_available() => return Err(ComputeError::NoCuda),
            DeviceChoice::Cuda(ordinal) => {
                Device::new_cuda(ordinal).map_err(|source| ComputeError::Device { ordinal, source })?
            }
        };
        let dtype = match (asked, device.is_cpu()) {
            (None | Some(DType::F32), true) => DType::F32,
            (Some(other), true) => return Err(ComputeError::CpuDType(other.as_str().to_owned())),
            (asked, false) => asked.unwrap_or(DType::BF16),
        };
        Ok(Self { device, dtype })
    }
}

fn parse_dtype(text: &str) -> Result<DType, ComputeError> {
    match text {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        "f16" => Ok(DType::F16),
        other => Err(ComputeError::UnknownDType(other.to_owned())),
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
    fn the_cpu_computes_in_f32_only() {
        assert_eq!(Compute::open(DeviceChoice::Cpu, None).unwrap().dtype, DType::F32);
        let error = Compute::open(DeviceChoice::Cpu, Some("bf16")).unwrap_err().to_string();
        assert_eq!(error, "dtype bf16 is not served on the CPU; leave it out or ask for f32");
    }
}
