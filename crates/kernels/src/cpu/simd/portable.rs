//! The portable implementation: plain arrays, for any CPU.

use super::{Kernel, LANES, Simd};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

/// Fused if that is one instruction; a library call for each lane would be a hundred times slower.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

/// Reduces the lanes to one by halves.
#[inline(always)]
fn reduce(mut lanes: [f32; LANES], op: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = op(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

impl Simd for Portable {
    type F = [f32; LANES];
    type I = [i32; LANES];
    const HALVES_ARE_BYTES: bool = false;
    const ACCUMULATORS: usize = 3;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::F {
        *from
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; LANES]) {
        *to = value;
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each(|i| multiply_add(a[i], b[i], c[i]))
    }

    #[inline(always)]
    fn fused(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn select_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        each(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }

    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        each(|i| a[i].abs())
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        each(|i| a[i].round_ties_even())
    }

    #[inline(always)]
    fn scale_by_power(self, a: Self::F, n: Self::F) -> Self::F {
        each(|i| a[i] * f32::from_bits(((n[i] as i32).wrapping_add(127) as u32) << 23))
    }

    #[inline(always)]
    fn sum_lanes(self, a: Self::F) -> f32 {
        reduce(a, |a, b| a + b)
    }

    #[inline(always)]
    fn max_lanes(self, a: Self::F) -> f32 {
        reduce(a, f32::max)
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u16; LANES]) -> Self::F {
        each(|i| from_bf16(from[i]))
    }

    #[inline(always)]
    fn widen_bf16(self, pairs: &[u16; 2 * LANES]) -> (Self::F, Self::F) {
        (each(|i| from_bf16(pairs[2 * i])), each(|i| from_bf16(pairs[2 * i + 1])))
    }

    #[inline(always)]
    fn zero_i(self) -> Self::I {
        [0; LANES]
    }

    #[inline(always)]
    fn widen_i8(self, pairs: &[i8; 2 * LANES]) -> Self::I {
        std::array::from_fn(|i| join_pair(i16::from(pairs[2 * i]), i16::from(pairs[2 * i + 1])))
    }

    #[inline(always)]
    fn splat_i(self, value: i32) -> Self::I {
        [value; LANES]
    }

    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }

    #[inline(always)]
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| a[i].wrapping_mul(b[i]))
    }

    #[inline(always)]
    fn widen_u8(self, bytes: &[u8; LANES]) -> Self::I {
        bytes.map(i32::from)
    }

    /// Values 0 and 2 as a pair of i16, then values 1 and 3.
    #[inline(always)]
    fn split_quad(self, [a, b, c, d]: [i32; 4]) -> [i32; 2] {
        [join_pair(a as i16, c as i16), join_pair(b as i16, d as i16)]
    }

    #[inline(always)]
    fn half_of_quads(self, quads: &[u8; 4 * LANES], half: usize) -> Self::I {
        std::array::from_fn(|i| join_pair(i16::from(quads[4 * i + half]), i16::from(quads[4 * i + half + 2])))
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
        std::array::from_fn(|i| {
            let low = i32::from(a[i] as i16) * i32::from(b[i] as i16);
            sum[i].wrapping_add(low).wrapping_add((a[i] >> 16) * (b[i] >> 16))
        })
    }

    #[inline(always)]
    fn load_i(self, from: &[i32; LANES]) -> Self::I {
        *from
    }

    #[inline(always)]
    fn store_pairs(self, value: Self::I, to: &mut [i32; LANES / 2]) {
        let pairs = value.as_chunks::<2>().0;
        to.iter_mut().zip(pairs).for_each(|(to, pair)| *to = join_pair(pair[0] as i16, pair[1] as i16));
    }

    #[inline(always)]
    fn join_pairs(self, first: Self::I, second: Self::I) -> Self::I {
        std::array::from_fn(|i| join_pair(first[i] as i16, second[i] as i16))
    }

    #[inline(always)]
    fn store_i(self, value: Self::I, to: &mut [i32; LANES]) {
        *to = value;
    }

    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        each(|i| a[i] as f32)
    }

    #[inline(always)]
    fn to_i32(self, a: Self::F) -> Self::I {
        std::array::from_fn(|i| a[i].round_ties_even() as i32)
    }
}

#[inline(always)]
pub(crate) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Packs two i16 into one i32, the first in the low half.
#[inline(always)]
pub(crate) fn join_pair(first: i16, second: i16) -> i32 {
    i32::from(first as u16) | (i32::from(second) << 16)
}
