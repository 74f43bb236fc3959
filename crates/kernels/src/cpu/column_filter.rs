//! Columns of bytes filtered in fixed point: the vertical pass of resizing a picture.

use super::dispatch::level;
use super::simd::{Kernel, LANES, Simd};

/// Vectors of a row computed at once: each weight is broadcast once for all of them.
const VECTORS: usize = 4;

/// Computes each byte of `target` as the weighted sum of the bytes of `source` in the same column, rounded and clamped to
/// a byte. Both hold rows of `stride` bytes. `taps` gives for each target row the first source row and the weights from
/// there on, in multiples of `2^-fraction_bits`. Their sums with bytes must fit an i32.
///
/// # Panics
/// If `target` does not hold one row for each of the taps, or weights extend beyond the source.
pub fn filter_columns(source: &[u8], stride: usize, taps: &[(usize, Vec<i32>)], fraction_bits: u32, target: &mut [u8]) {
    assert!(stride > 0 && target.len() == taps.len() * stride, "target must hold one row for each of the taps");
    let level = level();
    for ((first, weights), to) in taps.iter().zip(target.chunks_exact_mut(stride)) {
        let rows = source.get(first * stride..(first + weights.len()) * stride);
        let Some(rows) = rows else { panic!("weights must be within the source") };
        level.run(Row { rows, stride, weights, fraction_bits, to });
    }
}

/// One target row.
struct Row<'a> {
    rows: &'a [u8],
    stride: usize,
    weights: &'a [i32],
    fraction_bits: u32,
    to: &'a mut [u8],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { rows, stride, weights, fraction_bits, to } = self;
        let half = 1 << (fraction_bits - 1);
        let (wide, rest) = to.as_chunks_mut::<{ VECTORS * LANES }>();
        let (narrow, last) = rest.as_chunks_mut::<LANES>();
        let mut column = 0;
        for to in wide {
            let mut sums = [s.splat_i(half); VECTORS];
            for (row, &weight) in rows.chunks_exact(stride).zip(weights) {
                let weight = s.splat_i(weight);
                let bytes = row[column..][..VECTORS * LANES].as_chunks::<LANES>().0;
                for index in 0..VECTORS {
                    sums[index] = s.add_i(sums[index], s.mul_i(s.widen_u8(&bytes[index]), weight));
                }
            }
            for (to, sum) in to.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
                s.store_bytes(sum, fraction_bits, to);
            }
            column += VECTORS * LANES;
        }
        for to in narrow {
            let mut sum = s.splat_i(half);
            for (row, &weight) in rows.chunks_exact(stride).zip(weights) {
                if let Some(bytes) = row[column..].first_chunk() {
                    sum = s.add_i(sum, s.mul_i(s.widen_u8(bytes), s.splat_i(weight)));
                }
            }
            s.store_bytes(sum, fraction_bits, to);
            column += LANES;
        }
        for (to, column) in last.iter_mut().zip(column..) {
            let products = rows.chunks_exact(stride).zip(weights).map(|(row, weight)| i32::from(row[column]) * weight);
            *to = (products.fold(half, i32::wrapping_add) >> fraction_bits).clamp(0, 255) as u8;
        }
    }
}
