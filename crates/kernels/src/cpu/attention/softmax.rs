//! The softmax of a row of scores.

use crate::cpu::aligned::{F32x16, as_f32s_mut};
use crate::cpu::math::exp2_nonpositive;
use crate::cpu::simd::Simd;

/// Replaces scores by `e^((score - largest) / sqrt(dim))`, those from `visible` on by 0, and returns their sum.
///
/// Each lane is summed separately, so trailing zeros do not change any bit of the sum.
#[inline(always)]
pub(super) fn softmax<S: Simd>(s: S, scores: &mut [F32x16], visible: usize, dim: usize) -> f32 {
    let largest = mask_and_max(s, scores, visible);
    let scale = s.splat(std::f32::consts::LOG2_E / (dim as f32).sqrt());
    let mut sum = s.splat(0.0);
    for vector in scores {
        let value = exp2_nonpositive(s, s.mul(s.sub(s.load(&vector.0), largest), scale));
        sum = s.add(sum, value);
        s.store(value, &mut vector.0);
    }
    s.sum_lanes(sum)
}

/// Sets the scores from `visible` on to minus infinity and returns the largest score in every lane.
#[inline(always)]
pub(super) fn mask_and_max<S: Simd>(s: S, scores: &mut [F32x16], visible: usize) -> S::F {
    as_f32s_mut(scores)[visible..].fill(f32::NEG_INFINITY);
    let mut largest = s.splat(f32::NEG_INFINITY);
    for vector in scores {
        largest = s.max(s.load(&vector.0), largest);
    }
    s.splat(s.max_lanes(largest))
}
