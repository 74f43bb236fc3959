//! Rounding of f32 values to integers with a scale for each group.

use super::math::load_partial;
#[cfg(target_arch = "x86_64")]
use super::microkernel::GROUP;
use super::microkernel::{RowScale, WEIGHT_BIAS};
use super::simd::{LANES, Simd};

/// How the values of a group are rounded: `round(value * inverse) + shift`.
pub(crate) struct Rounding {
    /// NaN if a value is not finite.
    scale: f32,
    inverse: f32,
    shift: i32,
}

impl Rounding {
    /// The rounding of a group to integers of `BYTES` bytes.
    ///
    /// Two bytes are symmetric: the largest magnitude becomes the largest value of two signed bytes. One byte is
    /// asymmetric, from the smallest to the largest value, because nearly all outputs of an activation function are on
    /// one side of zero.
    #[inline(always)]
    pub(crate) fn of<S: Simd, const BYTES: usize>(s: S, group: &[f32]) -> Self {
        if BYTES == 1 {
            let (below, above, non_finite) = range(s, group);
            let range = below + above;
            // One less than a byte's 255, because both ends may be rounded up.
            let inverse = if range > 0.0 { 254.0 / range } else { 0.0 };
            let shift = (below * inverse).round_ties_even() as i32 - 128;
            return Self { scale: range / 254.0 + non_finite, inverse, shift };
        }
        let (largest, non_finite) = max_abs(s, group);
        let inverse = if largest > 0.0 { MAX_TWO_BYTES / largest } else { 0.0 };
        Self { scale: largest / MAX_TWO_BYTES + non_finite, inverse, shift: 0 }
    }

    #[inline(always)]
    pub(crate) fn round<S: Simd>(&self, s: S, values: S::F) -> S::I {
        s.add_i(s.to_i32(s.mul(values, s.splat(self.inverse))), s.splat_i(self.shift))
    }

    /// Rounds up to 16 values. The missing lanes are zeros: they are multiplied by padding weights.
    #[inline(always)]
    pub(crate) fn round_partial<S: Simd>(&self, s: S, values: &[f32]) -> S::I {
        if let Some(vector) = values.first_chunk() {
            return self.round(s, s.load(vector));
        }
        let mut lanes = [0; LANES];
        s.store_i(self.round(s, load_partial(s, values, 0.0)), &mut lanes);
        lanes[values.len()..].fill(0);
        s.load_i(&lanes)
    }

    /// The scale and corrections of a group whose rounded values add up to the lanes of `sum`.
    #[inline(always)]
    pub(crate) fn scale<S: Simd>(&self, s: S, sum: S::I) -> RowScale {
        let unbias = (-WEIGHT_BIAS).wrapping_mul(s.sum_lanes_i(sum));
        RowScale { scale: self.scale, unbias, offset: -self.shift as f32 * self.scale }
    }
}

/// The largest value of two bytes that are both signed: 127 * 256 + 127.
const MAX_TWO_BYTES: f32 = 32_639.0;

/// How far the values extend below and above zero, and 0, or NaN if a value is not finite.
#[inline(always)]
fn range<S: Simd>(s: S, values: &[f32]) -> (f32, f32, f32) {
    let zero = s.splat(0.0);
    let (mut below, mut above, mut non_finite) = (zero, zero, zero);
    for part in values.chunks(LANES) {
        let value = load_partial(s, part, 0.0);
        below = s.max(s.sub(zero, value), below);
        above = s.max(value, above);
        non_finite = s.fma(value, zero, non_finite);
    }
    (s.max_lanes(below), s.max_lanes(above), s.sum_lanes(non_finite))
}

/// The largest magnitude of the values, and 0, or NaN if a value is not finite.
#[inline(always)]
pub(crate) fn max_abs<S: Simd>(s: S, values: &[f32]) -> (f32, f32) {
    let mut lanes = MaxAbs::zero(s);
    for part in values.chunks(LANES) {
        lanes.add(s, load_partial(s, part, 0.0));
    }
    (s.max_lanes(lanes.max), s.sum_lanes(lanes.non_finite))
}

/// The largest magnitude in each lane so far.
pub(crate) struct MaxAbs<S: Simd> {
    pub(crate) max: S::F,
    /// 0, or NaN where a value was not finite.
    pub(crate) non_finite: S::F,
}

impl<S: Simd> MaxAbs<S> {
    #[inline(always)]
    pub(crate) fn zero(s: S) -> Self {
        Self { max: s.splat(0.0), non_finite: s.splat(0.0) }
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, s: S, value: S::F) {
        self.max = s.max(s.abs(value), self.max);
        self.non_finite = s.fma(value, s.splat(0.0), self.non_finite);
    }
}

/// Rounds a group, padded with zeros to [`GROUP`] values.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn round_group<S: Simd, const BYTES: usize>(s: S, group: &[f32]) -> (RowScale, [i32; GROUP]) {
    let rounding = Rounding::of::<S, BYTES>(s, group);
    let mut rounded = [0; GROUP];
    let mut sum = s.zero_i();
    for (values, to) in group.chunks(LANES).zip(rounded.as_chunks_mut::<LANES>().0) {
        let vector = rounding.round_partial(s, values);
        sum = s.add_i(sum, vector);
        s.store_i(vector, to);
    }
    (rounding.scale(s, sum), rounded)
}
