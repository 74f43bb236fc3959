//! What device memory holds.

use half::{bf16, f16};

/// A plain value in device memory, of which every pattern of bits is one.
///
/// # Safety
/// So it must be, and all zeros must be its default.
#[allow(unsafe_code, reason = "the promise that copies of raw bytes rest on")]
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

/// The number formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 32 bits.
    F32,
    /// IEEE's 16 bits.
    F16,
    /// The upper 16 bits of f32.
    Bf16,
}

/// A number format that kernels come in.
pub trait Format: Element {
    /// Which.
    const KIND: Kind;
    /// In kernels' names.
    const NAME: &'static str;
    /// Whether attention of many queries has a kernel on the tensor cores.
    const ON_TENSOR_CORES: bool = size_of::<Self>() == 2;
    /// The nearest value.
    fn from_f32(value: f32) -> Self;
    /// As f32, exactly.
    fn to_f32(self) -> f32;
}

impl Format for f32 {
    const KIND: Kind = Kind::F32;
    const NAME: &'static str = "f32";

    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }
}

impl Format for f16 {
    const KIND: Kind = Kind::F16;
    const NAME: &'static str = "f16";

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

impl Format for bf16 {
    const KIND: Kind = Kind::Bf16;
    const NAME: &'static str = "bf16";

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

/// How keys and values that are computed in `T` are kept: as they are, or as i8 with a scale for each token and head.
pub trait Kept<T: Format>: Element {
    /// In kernels' names, behind the format's.
    const SUFFIX: &'static str;
    /// Whether scales go with them.
    const SCALED: bool;
}

impl<T: Format> Kept<T> for T {
    const SUFFIX: &'static str = "";
    const SCALED: bool = false;
}

impl Kept<f16> for i8 {
    const SUFFIX: &'static str = "_int8";
    const SCALED: bool = true;
}

impl Kept<bf16> for i8 {
    const SUFFIX: &'static str = "_int8";
    const SCALED: bool = true;
}
