//! AVX2 with FMA: a vector of 16 lanes is two registers.

use std::arch::x86_64::*;

use super::portable::join_pair;
use super::{Kernel, LANES, Simd, reduce_eight};

/// Exists only where the CPU has AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

/// Evaluates an expression of register-only instructions.
macro_rules! avx2 {
    ($value:expr) => {{
        // SAFETY: a value of `Avx2` exists only where the CPU has these instructions, and they touch no memory.
        unsafe { $value }
    }};
}

impl Simd for Avx2 {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    const HALVES_ARE_BYTES: bool = false;
    const ACCUMULATORS: usize = 6;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma")]
        fn enabled<K: Kernel>(s: Avx2, kernel: K) -> K::Output {
            kernel.run(s)
        }
        avx2!(enabled(self, kernel))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        avx2!([_mm256_set1_ps(value); 2])
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::F {
        let from = from.as_ptr();
        // SAFETY: 16 floats are readable through the reference, and the loads need no alignment.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; LANES]) {
        let to = to.as_mut_ptr();
        // SAFETY: 16 floats are writable through the reference, and the stores need no alignment.
        unsafe {
            _mm256_storeu_ps(to, value[0]);
            _mm256_storeu_ps(to.add(8), value[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        avx2!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        avx2!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        avx2!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        avx2!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        avx2!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        avx2!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        avx2!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn select_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        avx2!([
            _mm256_blendv_ps(y[0], x[0], _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0])),
            _mm256_blendv_ps(y[1], x[1], _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])),
        ])
    }

    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        avx2!({
            let sign = _mm256_set1_ps(-0.0);
            [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
        })
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        avx2!([_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])])
    }

    #[inline(always)]
    fn scale_by_power(self, a: Self::F, n: Self::F) -> Self::F {
        avx2!({
            let bias = _mm256_set1_epi32(127);
            let low = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n[0]), bias));
            let high = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n[1]), bias));
            [_mm256_mul_ps(a[0], _mm256_castsi256_ps(low)), _mm256_mul_ps(a[1], _mm256_castsi256_ps(high))]
        })
    }

    #[inline(always)]
    fn sum_lanes(self, a: Self::F) -> f32 {
        avx2!({
            let eight = _mm256_add_ps(a[0], a[1]);
            reduce_eight!(eight, _mm_add_ps, _mm_add_ss)
        })
    }

    #[inline(always)]
    fn max_lanes(self, a: Self::F) -> f32 {
        avx2!({
            let eight = _mm256_max_ps(a[0], a[1]);
            reduce_eight!(eight, _mm_max_ps, _mm_max_ss)
        })
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u16; LANES]) -> Self::F {
        let from = from.as_ptr().cast::<__m128i>();
        // SAFETY: 32 bytes are readable through the reference, and the loads need no alignment.
        let [low, high] = unsafe { [_mm_loadu_si128(from), _mm_loadu_si128(from.add(1))] };
        avx2!({
            let (low, high) = (_mm256_cvtepu16_epi32(low), _mm256_cvtepu16_epi32(high));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
        })
    }

    #[inline(always)]
    fn widen_bf16(self, pairs: &[u16; 2 * LANES]) -> (Self::F, Self::F) {
        let from = pairs.as_ptr().cast::<__m256i>();
        // SAFETY: 64 bytes are readable through the reference, and the loads need no alignment.
        let [low, high] = unsafe { [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))] };
        avx2!({
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let first = [_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high)];
            let second = [_mm256_and_si256(low, upper), _mm256_and_si256(high, upper)];
            (
                [_mm256_castsi256_ps(first[0]), _mm256_castsi256_ps(first[1])],
                [_mm256_castsi256_ps(second[0]), _mm256_castsi256_ps(second[1])],
            )
        })
    }

    #[inline(always)]
    fn zero_i(self) -> Self::I {
        avx2!([_mm256_setzero_si256(); 2])
    }

    #[inline(always)]
    fn widen_i8(self, pairs: &[i8; 2 * LANES]) -> Self::I {
        let from = pairs.as_ptr().cast::<__m128i>();
        // SAFETY: 32 bytes are readable through the reference, and the loads need no alignment.
        let [low, high] = unsafe { [_mm_loadu_si128(from), _mm_loadu_si128(from.add(1))] };
        avx2!([_mm256_cvtepi8_epi16(low), _mm256_cvtepi8_epi16(high)])
    }

    #[inline(always)]
    fn splat_i(self, value: i32) -> Self::I {
        avx2!([_mm256_set1_epi32(value); 2])
    }

    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        avx2!([_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])])
    }

    #[inline(always)]
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I {
        avx2!([_mm256_mullo_epi32(a[0], b[0]), _mm256_mullo_epi32(a[1], b[1])])
    }

    #[inline(always)]
    fn widen_u8(self, bytes: &[u8; LANES]) -> Self::I {
        // SAFETY: 16 bytes are readable through the reference, and the load needs no alignment.
        let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        avx2!([_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes))])
    }

    /// Values 0 and 2 as a pair of i16, then values 1 and 3.
    #[inline(always)]
    fn split_quad(self, [a, b, c, d]: [i32; 4]) -> [i32; 2] {
        [join_pair(a as i16, c as i16), join_pair(b as i16, d as i16)]
    }

    #[inline(always)]
    fn half_of_quads(self, quads: &[u8; 4 * LANES], half: usize) -> Self::I {
        let from = quads.as_ptr().cast::<__m256i>();
        // SAFETY: 64 bytes are readable through the reference, and the loads need no alignment.
        let [low, high] = unsafe { [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))] };
        if half == 0 {
            avx2!([_mm256_and_si256(low, _mm256_set1_epi16(0xff)), _mm256_and_si256(high, _mm256_set1_epi16(0xff)),])
        } else {
            avx2!([_mm256_srli_epi16::<8>(low), _mm256_srli_epi16::<8>(high)])
        }
    }

    #[inline(always)]
    fn dot_half(self, sum: Self::I, quads: Self::I, x: Self::I) -> Self::I {
        self.dot_pairs(sum, quads, x)
    }

    #[inline(always)]
    fn scale_first_half(self, sum: Self::I) -> Self::I {
        sum
    }

    #[inline(always)]
    fn dot_pairs(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        avx2!([
            _mm256_add_epi32(sum[0], _mm256_madd_epi16(a[0], b[0])),
            _mm256_add_epi32(sum[1], _mm256_madd_epi16(a[1], b[1])),
        ])
    }

    #[inline(always)]
    fn load_i(self, from: &[i32; LANES]) -> Self::I {
        let from = from.as_ptr().cast::<__m256i>();
        // SAFETY: 64 bytes are readable through the reference, and the loads need no alignment.
        unsafe { [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))] }
    }

    #[inline(always)]
    fn store_pairs(self, value: Self::I, to: &mut [i32; LANES / 2]) {
        // The low halves of all lanes are below 2^16, so packing with unsigned saturation keeps them.
        let lower = value.map(|eight| avx2!(_mm256_and_si256(eight, _mm256_set1_epi32(0xffff))));
        let packed = avx2!(_mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(lower[0], lower[1])));
        // SAFETY: 32 bytes are writable through the reference, and the store needs no alignment.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), packed) }
    }

    #[inline(always)]
    fn join_pairs(self, first: Self::I, second: Self::I) -> Self::I {
        let join = |first, second| avx2!(_mm256_blend_epi16::<0xaa>(first, _mm256_slli_epi32::<16>(second)));
        [join(first[0], second[0]), join(first[1], second[1])]
    }

    #[inline(always)]
    fn store_i(self, value: Self::I, to: &mut [i32; LANES]) {
        let to = to.as_mut_ptr().cast::<__m256i>();
        // SAFETY: 64 bytes are writable through the reference, and the stores need no alignment.
        unsafe {
            _mm256_storeu_si256(to, value[0]);
            _mm256_storeu_si256(to.add(1), value[1]);
        }
    }

    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        avx2!([_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])])
    }

    #[inline(always)]
    fn to_i32(self, a: Self::F) -> Self::I {
        avx2!([_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1])])
    }
}
