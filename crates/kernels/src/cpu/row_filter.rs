//! Rows of bytes filtered in fixed point: the horizontal pass of resizing a picture.
//!
//! 16 rows are filtered at once, one in each lane, because all rows have the same weights at the same position.

use super::dispatch::level;
use super::simd::{Kernel, LANES, Simd, portable::join_pair};

/// Interleaved channels of a pixel.
const CHANNELS: usize = 3;

/// Bits of the lower part of a weight.
const LOWER_BITS: u32 = 11;

/// The weights of each target pixel.
#[derive(Clone, Debug)]
pub struct RowFilter {
    targets: Vec<Target>,
    width: usize,
    fraction_bits: u32,
}

#[derive(Clone, Debug)]
struct Target {
    /// The first pair of adjacent source pixels.
    first: usize,
    /// For each pair from there on: the upper parts of its two weights, and the lower parts.
    weights: Vec<(i32, i32)>,
    /// The initial value of the sum: one half, for rounding, plus the correction for the 128 subtracted from each byte.
    start: i32,
}

impl RowFilter {
    /// A filter of rows of `width` pixels. `targets` gives for each target pixel the first source pixel and the weights
    /// from there on, in multiples of `2^-fraction_bits`. Their sums with bytes must fit an i32.
    ///
    /// # Panics
    /// If a weight has more than 26 bits, or the weights of a target extend beyond the row.
    pub fn new(width: usize, fraction_bits: u32, targets: impl IntoIterator<Item = (usize, Vec<i32>)>) -> Self {
        let half = 1_i32 << (fraction_bits - 1);
        let target = |(first, mut weights): (usize, Vec<i32>)| {
            let largest = weights.iter().map(|weight| weight.unsigned_abs()).max().unwrap_or(0);
            assert!(first + weights.len() <= width, "weights must be within the row of {width} pixels");
            assert!(largest < 1 << 26, "a weight must fit 26 bits, but one is {largest}");
            let sum = weights.iter().fold(0_i32, |sum, &weight| sum.wrapping_add(weight));
            if first % 2 == 1 {
                weights.insert(0, 0);
            }
            let split = |pair: &[i32]| {
                let (first, second) = (pair[0], pair.get(1).copied().unwrap_or(0));
                let upper = |weight: i32| (weight >> LOWER_BITS) as i16;
                let lower = |weight: i32| (weight & ((1 << LOWER_BITS) - 1)) as i16;
                (join_pair(upper(first), upper(second)), join_pair(lower(first), lower(second)))
            };
            Target {
                first: first / 2,
                weights: weights.chunks(2).map(split).collect(),
                start: sum.wrapping_mul(128).wrapping_add(half),
            }
        };
        Self { targets: targets.into_iter().map(target).collect(), width, fraction_bits }
    }

    /// `target[row][pixel] = sum of weight * source byte`, rounded and clamped to a byte, for each of three channels.
    /// `source` holds rows of `width` pixels, and `target` as many rows with one pixel for each target.
    ///
    /// # Panics
    /// If they do not hold the same number of whole rows.
    pub fn run(&self, source: &[u8], target: &mut [u8]) {
        let (from, to) = (self.width * CHANNELS, self.targets.len() * CHANNELS);
        assert!(from > 0 && to > 0, "rows must have pixels");
        let rows = source.len() / from;
        assert!(
            source.len() == rows * from && target.len() == rows * to,
            "source and target must hold the same number of rows"
        );
        let mut columns = vec![Column::default(); from.next_multiple_of(LANES)];
        let mut pairs = vec![PixelPair([0; 2 * LANES]); self.width.div_ceil(2) * CHANNELS];
        let mut sums = vec![Column::default(); to.next_multiple_of(LANES)];
        let level = level();
        for (source, target) in source.chunks(LANES * from).zip(target.chunks_mut(LANES * to)) {
            rows_to_columns(source, from, &mut columns);
            pair_pixels(&columns[..from], &mut pairs);
            level.run_integers(FilterRows { filter: self, pairs: &pairs, sums: &mut sums });
            columns_to_rows(&sums, to, target);
        }
    }
}

/// One byte of each of up to 16 rows.
type Column = [u8; LANES];

/// One channel of two adjacent pixels of 16 rows, minus 128.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct PixelPair([i8; 2 * LANES]);

/// Transposes up to 16 rows of `width` bytes to columns. Missing rows have arbitrary contents.
fn rows_to_columns(rows: &[u8], width: usize, columns: &mut [Column]) {
    for (block, columns) in columns.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let at = block * LANES;
        let count = LANES.min(width - at);
        let mut square = [[0; LANES]; LANES];
        for (line, row) in square.iter_mut().zip(rows.chunks_exact(width)) {
            match row[at..].first_chunk::<LANES>() {
                Some(block) => *line = *block,
                None => line[..count].copy_from_slice(&row[at..]),
            }
        }
        *columns = transpose(square);
    }
}

/// Transposes columns to up to 16 rows of `width` bytes.
fn columns_to_rows(columns: &[Column], width: usize, rows: &mut [u8]) {
    for (block, columns) in columns.as_chunks::<LANES>().0.iter().enumerate() {
        let at = block * LANES;
        let count = LANES.min(width - at);
        for (line, row) in transpose(*columns).iter().zip(rows.chunks_exact_mut(width)) {
            match row[at..].first_chunk_mut::<LANES>() {
                Some(block) => *block = *line,
                None => row[at..].copy_from_slice(&line[..count]),
            }
        }
    }
}

/// Transposes 16 rows of 16 bytes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transpose(rows: [[u8; LANES]; LANES]) -> [[u8; LANES]; LANES] {
    use std::arch::x86_64::*;
    // Each round interleaves the bytes of lines i and i + 8. After four rounds each line is a column.
    let round = |lines: [__m128i; LANES]| -> [__m128i; LANES] {
        std::array::from_fn(|i| {
            let (a, b) = (lines[i / 2], lines[i / 2 + 8]);
            // SAFETY: every x86-64 CPU has SSE2, and the instructions access no memory.
            unsafe { if i % 2 == 0 { _mm_unpacklo_epi8(a, b) } else { _mm_unpackhi_epi8(a, b) } }
        })
    };
    // SAFETY: 16 bytes are readable at each pointer, and the loads need no alignment.
    let lines = rows.map(|row| unsafe { _mm_loadu_si128(row.as_ptr().cast()) });
    round(round(round(round(lines)))).map(|line| {
        let mut column = [0; LANES];
        // SAFETY: 16 bytes are writable, and the store needs no alignment.
        unsafe { _mm_storeu_si128(column.as_mut_ptr().cast(), line) };
        column
    })
}

/// Transposes 16 rows of 16 bytes.
#[cfg(not(target_arch = "x86_64"))]
fn transpose(rows: [[u8; LANES]; LANES]) -> [[u8; LANES]; LANES] {
    std::array::from_fn(|column| rows.map(|row| row[column]))
}

/// Pairs the columns of adjacent pixels: `pairs[pixel / 2][channel]`.
fn pair_pixels(columns: &[Column], pairs: &mut [PixelPair]) {
    // Minus 128 it is zero.
    const MISSING: Column = [128; LANES];
    for (pair, pixels) in pairs.as_chunks_mut::<CHANNELS>().0.iter_mut().zip(columns.chunks(2 * CHANNELS)) {
        for (channel, pair) in pair.iter_mut().enumerate() {
            let (first, second) = (&pixels[channel], pixels.get(CHANNELS + channel).unwrap_or(&MISSING));
            interleave(first, second, &mut pair.0);
        }
    }
}

/// Interleaves the bytes of two columns, minus 128.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn interleave(first: &Column, second: &Column, to: &mut [i8; 2 * LANES]) {
    use std::arch::x86_64::*;
    // SAFETY: every x86-64 CPU has SSE2; each column holds 16 bytes and `to` holds 32, and the accesses need no alignment.
    unsafe {
        let signs = _mm_set1_epi8(i8::MIN);
        let [first, second] =
            [first, second].map(|column| _mm_xor_si128(_mm_loadu_si128(column.as_ptr().cast()), signs));
        let to = to.as_mut_ptr().cast::<__m128i>();
        _mm_storeu_si128(to, _mm_unpacklo_epi8(first, second));
        _mm_storeu_si128(to.add(1), _mm_unpackhi_epi8(first, second));
    }
}

/// Interleaves the bytes of two columns, minus 128.
#[cfg(not(target_arch = "x86_64"))]
fn interleave(first: &Column, second: &Column, to: &mut [i8; 2 * LANES]) {
    for (to, (&first, &second)) in to.as_chunks_mut::<2>().0.iter_mut().zip(first.iter().zip(second)) {
        *to = [first, second].map(|byte| (byte ^ 128) as i8);
    }
}

/// Filters 16 rows, to the columns of their targets.
struct FilterRows<'a> {
    filter: &'a RowFilter,
    pairs: &'a [PixelPair],
    sums: &'a mut [Column],
}

impl Kernel for FilterRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { filter, pairs, sums } = self;
        let (pixels, _) = pairs.as_chunks::<CHANNELS>();
        let columns = sums.as_chunks_mut::<CHANNELS>().0;
        for (Target { first, weights, start }, columns) in filter.targets.iter().zip(columns) {
            let mut upper = [s.zero_i(); CHANNELS];
            let mut lower = [s.zero_i(); CHANNELS];
            for (pair, &(upper_weights, lower_weights)) in pixels[*first..].iter().zip(weights) {
                let (upper_weights, lower_weights) = (s.splat_i(upper_weights), s.splat_i(lower_weights));
                for channel in 0..CHANNELS {
                    let bytes = s.widen_i8(&pair[channel].0);
                    upper[channel] = s.dot_pairs(upper[channel], bytes, upper_weights);
                    lower[channel] = s.dot_pairs(lower[channel], bytes, lower_weights);
                }
            }
            for channel in 0..CHANNELS {
                // The parts may wrap; the whole sum fits.
                let upper = s.mul_i(upper[channel], s.splat_i(1 << LOWER_BITS));
                let sum = s.add_i(s.add_i(upper, lower[channel]), s.splat_i(*start));
                s.store_bytes(sum, filter.fraction_bits, &mut columns[channel]);
            }
        }
    }
}
