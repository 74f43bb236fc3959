//! Vectors of 16 lanes in memory, each aligned to a cache line.

use super::simd::LANES;

/// 16 f32 in one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct F32x16(pub(crate) [f32; LANES]);

/// 16 pairs of i16 in one cache line, the first of each pair in the low half.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct I16Pairs(pub(crate) [i32; LANES]);

/// The vectors as one slice of f32.
#[inline(always)]
pub(crate) fn as_f32s(vectors: &[F32x16]) -> &[f32] {
    // SAFETY: `F32x16` is 16 floats in 64 bytes, without padding.
    unsafe { std::slice::from_raw_parts(vectors.as_ptr().cast(), vectors.len() * LANES) }
}

/// The vectors as one mutable slice of f32.
#[inline(always)]
pub(crate) fn as_f32s_mut(vectors: &mut [F32x16]) -> &mut [f32] {
    // SAFETY: as in `as_f32s`, and the vectors are borrowed mutably.
    unsafe { std::slice::from_raw_parts_mut(vectors.as_mut_ptr().cast(), vectors.len() * LANES) }
}

/// The vectors as one mutable slice of pairs, each pair an i32.
pub(crate) fn as_pairs_mut(vectors: &mut [I16Pairs]) -> &mut [i32] {
    // SAFETY: `I16Pairs` is 16 integers in 64 bytes, without padding, and the vectors are borrowed mutably.
    unsafe { std::slice::from_raw_parts_mut(vectors.as_mut_ptr().cast(), vectors.len() * LANES) }
}
