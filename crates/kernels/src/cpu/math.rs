//! Elementary functions on vectors, by minimax polynomials.

use super::simd::{LANES, Simd};

/// Evaluates a polynomial, highest coefficient first.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::F, coefficients: [f32; N]) -> S::F {
    let mut sum = s.splat(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        sum = s.fma(sum, x, s.splat(coefficient));
    }
    sum
}

/// `e^x` with a relative error below 2e-7. It is 0 below -87.3 (there are no denormal results) and `e^88` above 88.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    const LOWEST: f32 = -87.3;
    // In this order of operands a NaN is kept.
    let bounded = s.max(s.splat(LOWEST), s.min(s.splat(88.0), x));
    let whole = s.round(s.mul(bounded, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts, the first with few enough bits that its product with `whole` is exact.
    let rest = s.fma(whole, s.splat(-0.693_359_4), bounded);
    let rest = s.fma(whole, s.splat(2.121_944_4e-4), rest);
    // (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2; the largest error of e^r is 3e-9.
    let tail = polynomial(s, rest, [0.001_381_454, 0.008_368_745, 0.041_668_39, 0.166_665_2, 0.499_999_94]);
    let value = s.add(s.fma(s.mul(rest, rest), tail, rest), s.splat(1.0));
    let value = s.scale_by_power(value, whole);
    s.select_less(x, s.splat(LOWEST), s.splat(0.0), value)
}

/// `2^x` for `x <= 0` with a relative error below 2e-7. It is 0 below -126 (there are no denormal results).
#[inline(always)]
pub(crate) fn exp2_nonpositive<S: Simd>(s: S, x: S::F) -> S::F {
    const LOWEST: f32 = -126.0;
    // In this order of operands a NaN is kept.
    let value = exp2_in_range(s, s.max(s.splat(LOWEST), x));
    s.select_less(x, s.splat(LOWEST), s.splat(0.0), value)
}

/// `2^x` for `x <= 0` with a relative error below 3e-6, for results that are rounded to 16 bits. It is 2^-40 below -40.
#[inline(always)]
pub(crate) fn exp2_coarse<S: Simd>(s: S, x: S::F) -> S::F {
    // In this order of operands a NaN is kept.
    let x = s.max(s.splat(-40.0), x);
    let whole = s.round(x);
    let rest = s.sub(x, whole);
    let value = polynomial(s, rest, [0.009_570_101, 0.055_917_86, 0.240_247_44, 0.693_121_8, 0.999_999_3]);
    s.scale_by_power(value, whole)
}

/// `2^x` for `x` from -126 to 127.
#[inline(always)]
fn exp2_in_range<S: Simd>(s: S, x: S::F) -> S::F {
    let whole = s.round(x);
    let rest = s.sub(x, whole);
    // 2^r on |r| <= 1/2; the largest error is 2e-9.
    let value = polynomial(
        s,
        rest,
        [0.000_153_458_12, 0.001_339_993_1, 0.009_618_489, 0.055_503_286, 0.240_226_46, std::f32::consts::LN_2, 1.0],
    );
    s.scale_by_power(value, whole)
}

/// `x * Phi(x)`, the exact (erf) form of GELU.
///
/// Computed as `max(x, 0) - |x| erfc(|x| / sqrt 2) / 2`, which has no cancellation for negative x.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::F) -> S::F {
    // Above 14 the second term underflows, and infinity times zero must be avoided.
    let size = s.min(s.splat(14.0), s.abs(x));
    let z = s.mul(size, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    // erfc(z) = e^(-z^2) t P(t) with t = 1 / (1 + 0.55 z); the largest error on [0, 6] is 1.7e-8.
    let t = s.div(s.splat(1.0), s.fma(z, s.splat(0.55), s.splat(1.0)));
    let p = polynomial(s, t, [0.107_330_53, -0.518_061_46, 0.759_749_5, -0.041_452_386, 0.390_851_77, 0.301_582_04]);
    let gaussian = exp(s, s.mul(s.mul(size, size), s.splat(-0.5)));
    let tail = s.mul(s.mul(s.mul(size, s.splat(0.5)), s.mul(t, p)), gaussian);
    s.sub(s.max(x, s.splat(0.0)), tail)
}

/// `x * sigmoid(1.702 x)`.
#[inline(always)]
pub(crate) fn quick_gelu<S: Simd>(s: S, x: S::F) -> S::F {
    let exponent = s.mul(x, s.splat(-1.702 * std::f32::consts::LOG2_E));
    // In this order of operands a NaN is kept. Outside the bounds the exponential is negligible against 1, or the other
    // way round.
    let exponential = exp2_in_range(s, s.max(s.splat(-126.0), s.min(s.splat(127.0), exponent)));
    s.div(x, s.add(exponential, s.splat(1.0)))
}

/// Loads up to 16 values; missing lanes are `fill`.
#[inline(always)]
pub(crate) fn load_partial<S: Simd>(s: S, from: &[f32], fill: f32) -> S::F {
    if let Some(vector) = from.first_chunk::<LANES>() {
        return s.load(vector);
    }
    let mut lanes = [fill; LANES];
    lanes[..from.len()].copy_from_slice(from);
    s.load(&lanes)
}

/// Stores the first lanes, as many as `to` holds, up to 16.
#[inline(always)]
pub(crate) fn store_partial<S: Simd>(s: S, value: S::F, to: &mut [f32]) {
    if let Some(vector) = to.first_chunk_mut::<LANES>() {
        return s.store(value, vector);
    }
    let mut lanes = [0.0; LANES];
    s.store(value, &mut lanes);
    to.copy_from_slice(&lanes[..to.len()]);
}
