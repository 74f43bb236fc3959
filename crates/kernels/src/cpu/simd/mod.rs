//! Vectors of 16 lanes, the unit every kernel is written in.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod portable;

/// Lanes of a vector and outputs of a weight panel, whatever the register width.
pub(crate) const LANES: usize = 16;

/// Work compiled once for each implementation. `run` must be `#[inline(always)]`, like everything it calls, or the
/// callee is compiled without the implementation's instructions.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// One instruction set. A value of an implementing type proves that the CPU has it.
pub(crate) trait Simd: Copy + Send + Sync {
    /// 16 f32.
    type F: Copy;
    /// 16 i32, or 32 i16 as pairs of neighbours.
    type I: Copy;
    /// Vectors that may be kept as accumulators, with registers left for operands.
    const ACCUMULATORS: usize;
    /// Whether the halves of [`Self::split_quad`] are the upper and the lower bytes, and not two of the inputs each.
    const HALVES_ARE_BYTES: bool;

    /// Runs a kernel with this instruction set enabled in its code.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, value: f32) -> Self::F;
    fn load(self, from: &[f32; LANES]) -> Self::F;
    fn store(self, value: Self::F, to: &mut [f32; LANES]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the CPU can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b`: `b` where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`: `b` where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? x : y`.
    fn select_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `a * 2^n` for whole n from -126 to 127, where that is no denormal.
    fn scale_by_power(self, a: Self::F, n: Self::F) -> Self::F;
    /// Sum of the lanes, by halves.
    fn sum_lanes(self, a: Self::F) -> f32;
    /// Largest lane, where none is NaN.
    fn max_lanes(self, a: Self::F) -> f32;

    /// 16 pairs of bf16 as (first of each pair, second of each pair).
    fn widen_bf16(self, pairs: &[u16; 2 * LANES]) -> (Self::F, Self::F);

    fn zero_i(self) -> Self::I;
    /// 16 pairs of i8 as pairs of i16.
    fn widen_i8(self, pairs: &[i8; 2 * LANES]) -> Self::I;
    /// One i32, or pair of i16 (low half first), or quad of bytes (lowest first), in every lane.
    fn splat_i(self, value: i32) -> Self::I;
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The lower 32 bits of each product.
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// 16 bytes as i32.
    fn widen_u8(self, bytes: &[u8; LANES]) -> Self::I;
    /// Each lane shifted to the right, its sign kept, and limited to a byte.
    #[inline(always)]
    fn store_bytes(self, a: Self::I, shift: u32, to: &mut [u8; LANES]) {
        let mut lanes = [0; LANES];
        self.store_i(a, &mut lanes);
        *to = lanes.map(|lane: i32| (lane >> shift).clamp(0, 255) as u8);
    }
    /// Sum of the lanes, modulo 2^32.
    #[inline(always)]
    fn sum_lanes_i(self, a: Self::I) -> i32 {
        let mut lanes = [0; LANES];
        self.store_i(a, &mut lanes);
        lanes.into_iter().fold(0, i32::wrapping_add)
    }
    /// `sum + a0 * b0 + a1 * b1` for every pair of i16, exact while it fits an i32.
    fn dot_pairs(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I;

    /// Four i16 in the two parts by which quads are multiplied: `sum x w` is what [`dot_half`](Self::dot_half) adds up
    /// over all quads for the first part, [`between_halves`](Self::between_halves) then makes of that, and `dot_half`
    /// adds to it for the second. Values lie between -32,639 and 32,639.
    fn split_quad(self, quad: [i32; 4]) -> [i32; 2];
    /// [`split_quad`](Self::split_quad) of every four lanes.
    #[inline(always)]
    fn split_quads(self, whole: Self::I) -> [[i32; 2]; LANES / 4] {
        let mut lanes = [0; LANES];
        self.store_i(whole, &mut lanes);
        let quads = lanes.as_chunks::<4>().0;
        std::array::from_fn(|index| self.split_quad(quads[index]))
    }
    /// What `dot_half` takes of 16 quads of u8.
    fn half_of_quads(self, quads: &[u8; 4 * LANES], half: usize) -> Self::I;
    fn dot_half(self, sum: Self::I, quads: Self::I, x: Self::I) -> Self::I;
    fn between_halves(self, sum: Self::I) -> Self::I;
    fn load_i(self, from: &[i32; LANES]) -> Self::I;
    fn store_i(self, value: Self::I, to: &mut [i32; LANES]);
    /// The lower 16 bits of every lane, neighbours in pairs.
    fn store_pairs(self, value: Self::I, to: &mut [i32; LANES / 2]);
    /// The lower 16 bits of every lane of both as a pair.
    fn join_pairs(self, first: Self::I, second: Self::I) -> Self::I;
    /// i32 to f32, ties to even.
    fn to_f32(self, a: Self::I) -> Self::F;
    /// f32 to i32, ties to even.
    fn to_i32(self, a: Self::F) -> Self::I;
}

/// Asks for the cache line at an address, which may be any, into the second-level cache. Only advice.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 CPU has the instruction, which neither faults nor changes memory.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Joins the lanes of eight, by halves: `$join` for two registers, `$join_one` for their lowest lanes.
#[cfg(target_arch = "x86_64")]
macro_rules! fold_eight {
    ($eight:expr, $join:ident, $join_one:ident) => {{
        let four = $join(_mm256_castps256_ps128($eight), _mm256_extractf128_ps::<1>($eight));
        let two = $join(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32($join_one(two, _mm_shuffle_ps::<1>(two, two)))
    }};
}
#[cfg(target_arch = "x86_64")]
pub(crate) use fold_eight;
