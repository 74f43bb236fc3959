//! What keys and values are stored as: f32, or bf16 as its bits.

use super::simd::portable::from_bf16;
use super::simd::{LANES, Simd};
use super::storage::Plain;

/// A stored value. It is widened to f32 exactly, so that the kernels are the same operations for every element.
pub(crate) trait Element: Plain {
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
    /// Loads 16 values as f32.
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::F;
}

impl Element for f32 {
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::F {
        s.load(from)
    }
}

/// bf16.
impl Element for u16 {
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        to_bf16(value)
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        from_bf16(self)
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::F {
        s.load_bf16(from)
    }
}

/// Rounds to nearest, ties to even. NaN stays NaN.
#[inline(always)]
pub(crate) fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}
