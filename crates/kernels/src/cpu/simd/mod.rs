//! Vectors of 16 lanes, in which every kernel is written, and the instruction sets that implement them.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod portable;

/// Lanes of a vector and outputs of a weight panel, independent of the register width.
pub(crate) const LANES: usize = 16;

/// A computation that is compiled once for each instruction set. `run` and everything it calls must be
/// `#[inline(always)]`, or the callee is compiled without those instructions.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// One instruction set. A value of an implementing type proves that the CPU supports it.
pub(crate) trait Simd: Copy + Send + Sync {
    /// 16 f32.
    type F: Copy;
    /// 16 i32, or 16 pairs of adjacent i16.
    type I: Copy;
    /// How many vectors can be accumulators, with registers left for operands.
    const ACCUMULATORS: usize;
    /// Whether the halves of [`Self::split_quad`] are the upper and the lower bytes, rather than two of the inputs each.
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
    /// `a * b + c`, rounded once if the CPU supports it.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a * b + c`, rounded once on every CPU, which is slow without such an instruction.
    #[inline(always)]
    fn fused(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.fma(a, b, c)
    }
    /// `a > b ? a : b`; `b` if either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`; `b` if either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? x : y`.
    fn select_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// Rounds to the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `a * 2^n` for integers `n` from -126 to 127. The result must not be denormal.
    fn scale_by_power(self, a: Self::F, n: Self::F) -> Self::F;
    /// Sum of the lanes: the upper half is added to the lower half until one lane is left.
    fn sum_lanes(self, a: Self::F) -> f32;
    /// The largest lane; no lane may be NaN.
    fn max_lanes(self, a: Self::F) -> f32;

    /// Widens 16 bf16.
    fn load_bf16(self, from: &[u16; LANES]) -> Self::F;
    /// Widens 16 pairs of bf16 to (the first of each pair, the second of each pair).
    fn widen_bf16(self, pairs: &[u16; 2 * LANES]) -> (Self::F, Self::F);

    fn zero_i(self) -> Self::I;
    /// Widens 16 pairs of i8 to pairs of i16.
    fn widen_i8(self, pairs: &[i8; 2 * LANES]) -> Self::I;
    /// One i32, one pair of i16 (low half first) or one quad of bytes (lowest first) in every lane.
    fn splat_i(self, value: i32) -> Self::I;
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The low 32 bits of each product.
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Widens 16 bytes to i32.
    fn widen_u8(self, bytes: &[u8; LANES]) -> Self::I;
    /// Shifts each lane right arithmetically, clamps it to 0 to 255 and stores it as a byte.
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
    /// `sum + a0 * b0 + a1 * b1` for every pair of i16, exact as long as it fits an i32.
    fn dot_pairs(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I;

    /// Splits four values from -32,639 to 32,639 into the two halves in which quads are multiplied. A dot product is
    /// computed in two passes over all quads: [`dot_half`](Self::dot_half) with the first halves, then
    /// [`scale_first_half`](Self::scale_first_half) of the sum, then `dot_half` with the second halves.
    fn split_quad(self, quad: [i32; 4]) -> [i32; 2];
    /// [`split_quad`](Self::split_quad) of every four lanes.
    #[inline(always)]
    fn split_quads(self, values: Self::I) -> [[i32; 2]; LANES / 4] {
        let mut lanes = [0; LANES];
        self.store_i(values, &mut lanes);
        let quads = lanes.as_chunks::<4>().0;
        std::array::from_fn(|index| self.split_quad(quads[index]))
    }
    /// The operand of [`dot_half`](Self::dot_half) for 16 quads of u8 and half 0 or 1.
    fn half_of_quads(self, quads: &[u8; 4 * LANES], half: usize) -> Self::I;
    /// Adds the products of one half of 16 quads with one half of a quad of values, as returned by
    /// [`split_quad`](Self::split_quad), to the sums.
    fn dot_half(self, sum: Self::I, quads: Self::I, x: Self::I) -> Self::I;
    /// Prepares the sums of the first halves for adding those of the second.
    fn scale_first_half(self, sum: Self::I) -> Self::I;
    fn load_i(self, from: &[i32; LANES]) -> Self::I;
    fn store_i(self, value: Self::I, to: &mut [i32; LANES]);
    /// Stores the low 16 bits of every lane, as pairs of adjacent lanes.
    fn store_pairs(self, value: Self::I, to: &mut [i32; LANES / 2]);
    /// Pairs the low 16 bits of each lane of both vectors.
    fn join_pairs(self, first: Self::I, second: Self::I) -> Self::I;
    /// i32 to f32, rounded to nearest, ties to even.
    fn to_f32(self, a: Self::I) -> Self::F;
    /// f32 to i32, rounded to nearest, ties to even.
    fn to_i32(self, a: Self::F) -> Self::I;
}

/// Prefetches the cache line at an address, which need not be valid, into the L2 cache.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 CPU has the instruction, which neither faults nor modifies memory.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Reduces eight lanes to one by halves: with `$op` on registers, and with `$op_one` on their lowest lanes.
#[cfg(target_arch = "x86_64")]
macro_rules! reduce_eight {
    ($eight:expr, $op:ident, $op_one:ident) => {{
        let four = $op(_mm256_castps256_ps128($eight), _mm256_extractf128_ps::<1>($eight));
        let two = $op(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32($op_one(two, _mm_shuffle_ps::<1>(two, two)))
    }};
}
#[cfg(target_arch = "x86_64")]
pub(crate) use reduce_eight;
