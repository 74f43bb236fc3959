//! AVX-512: a vector of 16 lanes is one register.

use std::arch::x86_64::*;

use super::portable::join_pair;
use super::{Kernel, LANES, Simd, reduce_eight};

/// Exists only where the CPU has AVX-512 F, BW and VL, and VNNI if `VNNI` is true.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512<const VNNI: bool>(());

impl<const VNNI: bool> Avx512<VNNI> {
    pub(crate) fn detect() -> Option<Self> {
        let base = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        (base && (!VNNI || is_x86_feature_detected!("avx512vnni"))).then_some(Self(()))
    }
}

impl Avx512<true> {
    /// The same instruction set without VNNI, so that kernels that do not use VNNI are compiled only once.
    pub(crate) fn without_vnni(self) -> Avx512<false> {
        Avx512(())
    }
}

/// Evaluates an expression of register-only instructions.
macro_rules! avx512 {
    ($value:expr) => {{
        // SAFETY: a value of `Avx512` exists only where the CPU has these instructions, and they touch no memory.
        unsafe { $value }
    }};
}

/// `vpdpwssd` in assembly: the compiler turns its intrinsic into a product and a sum, each of which takes as long.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_pairs_vnni(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the instruction is enabled here and accesses only these registers.
    unsafe {
        std::arch::asm!(
            "vpdpwssd {sum}, {a}, {b}",
            sum = inout(zmm_reg) sum, a = in(zmm_reg) a, b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

impl<const VNNI: bool> Simd for Avx512<VNNI> {
    type F = __m512;
    type I = __m512i;
    const HALVES_ARE_BYTES: bool = VNNI;
    const ACCUMULATORS: usize = 16;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
        fn enabled<K: Kernel, const VNNI: bool>(s: Avx512<VNNI>, kernel: K) -> K::Output {
            kernel.run(s)
        }
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
        fn enabled_vnni<K: Kernel, const VNNI: bool>(s: Avx512<VNNI>, kernel: K) -> K::Output {
            kernel.run(s)
        }
        if VNNI { avx512!(enabled_vnni(self, kernel)) } else { avx512!(enabled(self, kernel)) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        avx512!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::F {
        // SAFETY: 16 floats are readable through the reference, and the load needs no alignment.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; LANES]) {
        // SAFETY: 16 floats are writable through the reference, and the store needs no alignment.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        avx512!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        avx512!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        avx512!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        avx512!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        avx512!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        avx512!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        avx512!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn select_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        avx512!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x))
    }

    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        avx512!(_mm512_abs_ps(a))
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        // Immediate 0: no fraction bits, to nearest, ties to even.
        avx512!(_mm512_roundscale_ps::<0>(a))
    }

    #[inline(always)]
    fn scale_by_power(self, a: Self::F, n: Self::F) -> Self::F {
        avx512!(_mm512_scalef_ps(a, n))
    }

    #[inline(always)]
    fn sum_lanes(self, a: Self::F) -> f32 {
        avx512!({
            let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(a)));
            let eight = _mm256_add_ps(_mm512_castps512_ps256(a), upper);
            reduce_eight!(eight, _mm_add_ps, _mm_add_ss)
        })
    }

    #[inline(always)]
    fn max_lanes(self, a: Self::F) -> f32 {
        avx512!({
            let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(a)));
            let eight = _mm256_max_ps(_mm512_castps512_ps256(a), upper);
            reduce_eight!(eight, _mm_max_ps, _mm_max_ss)
        })
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u16; LANES]) -> Self::F {
        // SAFETY: 32 bytes are readable through the reference, and the load needs no alignment.
        let half = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
        avx512!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))))
    }

    #[inline(always)]
    fn widen_bf16(self, pairs: &[u16; 2 * LANES]) -> (Self::F, Self::F) {
        // SAFETY: 64 bytes are readable through the reference, and the load needs no alignment.
        let both = unsafe { _mm512_loadu_si512(pairs.as_ptr().cast()) };
        avx512!({
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            let first = _mm512_slli_epi32::<16>(both);
            let second = _mm512_and_si512(both, upper);
            (_mm512_castsi512_ps(first), _mm512_castsi512_ps(second))
        })
    }

    #[inline(always)]
    fn zero_i(self) -> Self::I {
        avx512!(_mm512_setzero_si512())
    }

    #[inline(always)]
    fn widen_i8(self, pairs: &[i8; 2 * LANES]) -> Self::I {
        // SAFETY: 32 bytes are readable through the reference, and the load needs no alignment.
        let bytes = unsafe { _mm256_loadu_si256(pairs.as_ptr().cast()) };
        avx512!(_mm512_cvtepi8_epi16(bytes))
    }

    #[inline(always)]
    fn splat_i(self, value: i32) -> Self::I {
        avx512!(_mm512_set1_epi32(value))
    }

    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        avx512!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I {
        avx512!(_mm512_mullo_epi32(a, b))
    }

    #[inline(always)]
    fn widen_u8(self, bytes: &[u8; LANES]) -> Self::I {
        // SAFETY: 16 bytes are readable through the reference, and the load needs no alignment.
        let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        avx512!(_mm512_cvtepu8_epi32(bytes))
    }

    #[inline(always)]
    fn store_bytes(self, a: Self::I, shift: u32, to: &mut [u8; LANES]) {
        let bytes = avx512!({
            let shifted = _mm512_sra_epi32(a, _mm_cvtsi32_si128(shift as i32));
            _mm512_cvtusepi32_epi8(_mm512_max_epi32(shifted, _mm512_setzero_si512()))
        });
        // SAFETY: 16 bytes are writable through the reference, and the store needs no alignment.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), bytes) }
    }

    #[inline(always)]
    fn sum_lanes_i(self, a: Self::I) -> i32 {
        avx512!(_mm512_reduce_add_epi32(a))
    }

    /// With VNNI: the upper and the lower bytes, both signed. Without: values 0 and 2 as a pair of i16, then values 1 and 3.
    #[inline(always)]
    fn split_quad(self, quad: [i32; 4]) -> [i32; 2] {
        if VNNI {
            [quad.map(|value| ((value + 128) >> 8) as u8), quad.map(|value| value as u8)].map(i32::from_le_bytes)
        } else {
            [join_pair(quad[0] as i16, quad[2] as i16), join_pair(quad[1] as i16, quad[3] as i16)]
        }
    }

    #[inline(always)]
    fn split_quads(self, values: Self::I) -> [[i32; 2]; LANES / 4] {
        if !VNNI {
            let mut lanes = [0; LANES];
            self.store_i(values, &mut lanes);
            let quads = lanes.as_chunks::<4>().0;
            return std::array::from_fn(|index| self.split_quad(quads[index]));
        }
        avx512!({
            let rounded_up = _mm512_add_epi32(values, _mm512_set1_epi32(128));
            let upper = _mm512_cvtepi32_epi8(_mm512_srai_epi32::<8>(rounded_up));
            let lower = _mm512_cvtepi32_epi8(values);
            let [first, second] = [_mm_unpacklo_epi32(upper, lower), _mm_unpackhi_epi32(upper, lower)];
            let pair = |low: i64| [low as i32, (low >> 32) as i32];
            [
                pair(_mm_cvtsi128_si64(first)),
                pair(_mm_cvtsi128_si64(_mm_unpackhi_epi64(first, first))),
                pair(_mm_cvtsi128_si64(second)),
                pair(_mm_cvtsi128_si64(_mm_unpackhi_epi64(second, second))),
            ]
        })
    }

    #[inline(always)]
    fn half_of_quads(self, quads: &[u8; 4 * LANES], half: usize) -> Self::I {
        // SAFETY: 64 bytes are readable through the reference, and the load needs no alignment.
        let bytes = unsafe { _mm512_loadu_si512(quads.as_ptr().cast()) };
        if VNNI {
            bytes
        } else if half == 0 {
            avx512!(_mm512_and_si512(bytes, _mm512_set1_epi16(0xff)))
        } else {
            avx512!(_mm512_srli_epi16::<8>(bytes))
        }
    }

    #[inline(always)]
    fn dot_half(self, sum: Self::I, quads: Self::I, x: Self::I) -> Self::I {
        if VNNI { avx512!(_mm512_dpbusd_epi32(sum, quads, x)) } else { self.dot_pairs(sum, quads, x) }
    }

    #[inline(always)]
    fn scale_first_half(self, sum: Self::I) -> Self::I {
        if VNNI { avx512!(_mm512_slli_epi32::<8>(sum)) } else { sum }
    }

    #[inline(always)]
    fn dot_pairs(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        if VNNI { avx512!(dot_pairs_vnni(sum, a, b)) } else { avx512!(_mm512_add_epi32(sum, _mm512_madd_epi16(a, b))) }
    }

    #[inline(always)]
    fn load_i(self, from: &[i32; LANES]) -> Self::I {
        // SAFETY: 64 bytes are readable through the reference, and the load needs no alignment.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_pairs(self, value: Self::I, to: &mut [i32; LANES / 2]) {
        let pairs = avx512!(_mm512_cvtepi32_epi16(value));
        // SAFETY: 32 bytes are writable through the reference, and the store needs no alignment.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), pairs) }
    }

    #[inline(always)]
    fn join_pairs(self, first: Self::I, second: Self::I) -> Self::I {
        avx512!(_mm512_mask_blend_epi16(0xaaaa_aaaa, first, _mm512_slli_epi32::<16>(second)))
    }

    #[inline(always)]
    fn store_i(self, value: Self::I, to: &mut [i32; LANES]) {
        // SAFETY: 64 bytes are writable through the reference, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), value) }
    }

    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        avx512!(_mm512_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn to_i32(self, a: Self::F) -> Self::I {
        avx512!(_mm512_cvtps_epi32(a))
    }
}
