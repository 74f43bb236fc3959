//! Number formats of device memory.

use half::{bf16, f16};

/// A plain value in device memory.
///
/// # Safety
/// Every bit pattern must be a valid value, and all zeros must be the default.
#[allow(unsafe_code, reason = "copies of raw bytes rely on it")]
pub unsafe trait Element: Copy + Default + Send + Sync + 'static {}

// SAFETY: plain numbers.
unsafe impl Element for f32 {}
// SAFETY: as above.
unsafe impl Element for f16 {}
// SAFETY: as above.
unsafe impl Element for bf16 {}
// SAFETY: as above.
unsafe impl Element for i8 {}
// SAFETY: as above.
unsafe impl Element for u16 {}
// SAFETY: as above.
unsafe impl Element for u32 {}
// SAFETY: as above.
unsafe impl Element for u64 {}

/// The floating-point formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// 32 bits.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper 16 bits of f32.
    Bf16,
}

/// A floating-point format that kernels compute in.
pub trait Format: Element {
    /// The format as a value.
    const DATA_TYPE: DataType;
    /// The name, as part of kernel names.
    const NAME: &'static str;
    /// Whether attention of many queries has a kernel for the tensor cores.
    const ON_TENSOR_CORES: bool = size_of::<Self>() == 2;
    /// Rounds to the nearest value.
    fn from_f32(value: f32) -> Self;
    /// Converts to f32 exactly.
    fn to_f32(self) -> f32;
}

impl Format for f32 {
    const DATA_TYPE: DataType = DataType::F32;
    const NAME: &'static str = "f32";

    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }
}

impl Format for f16 {
    const DATA_TYPE: DataType = DataType::F16;
    const NAME: &'static str = "f16";

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

impl Format for bf16 {
    const DATA_TYPE: DataType = DataType::Bf16;
    const NAME: &'static str = "bf16";

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

/// The format in which the keys and values of computations in `T` are cached: `T` itself, or i8 with a scale for each
/// token and head.
pub trait KvFormat<T: Format>: Element {
    /// The suffix of kernel names, after the name of `T`.
    const SUFFIX: &'static str;
    /// Whether there are scales.
    const SCALED: bool;
}

impl<T: Format> KvFormat<T> for T {
    const SUFFIX: &'static str = "";
    const SCALED: bool = false;
}

impl KvFormat<f16> for i8 {
    const SUFFIX: &'static str = "_int8";
    const SCALED: bool = true;
}

impl KvFormat<bf16> for i8 {
    const SUFFIX: &'static str = "_int8";
    const SCALED: bool = true;
}
