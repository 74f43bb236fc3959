//! Rows of bytes filtered in fixed point: the horizontal pass of a picture's resize.
//!
//! 16 rows go side by side, one in each lane, since all rows have the same weights at the same place.

use super::dispatch::level;
use super::simd::{Kernel, LANES, Simd, portable::join_pair};

/// Interleaved channels of a pixel.
const CHANNELS: usize = 3;

/// Bits of a weight that its lower part takes.
const LOWER_BITS: u32 = 11;

/// What each target pixel is made of.
#[derive(Clone, Debug)]
pub struct RowFilter {
    targets: Vec<Target>,
    width: usize,
    fraction_bits: u32,
}

#[derive(Clone, Debug)]
struct Target {
    /// First pair of neighbouring source pixels.
    first: usize,
    /// For each pair on: the upper parts of its two weights, and the lower parts.
    weights: Vec<(i32, i32)>,
    /// What the sum begins with: half of a unit, and what is taken from each byte to make it signed.
    start: i32,
}

impl RowFilter {
    /// A filter of rows of `width` pixels. For each target pixel: the first source pixel, and the weights from there
    /// on as multiples of `2^-fraction_bits`, whose sums with bytes must fit an i32.
    ///
    /// # Panics
    /// If a weight has more than 26 bits, or its target's weights reach beyond the row.
    pub fn new(width: usize, fraction_bits: u32, targets: impl IntoIterator<Item = (usize, Vec<i32>)>) -> Self {
        let half = 1_i32 << (fraction_bits - 1);
        let target = |(first, mut weights): (usize, Vec<i32>)| {
            let largest = weights.iter().map(|weight| weight.unsigned_abs()).max().unwrap_or(0);
            assert!(first + weights.len() <= width, "weights must lie within the row of {width} pixels");
            assert!(largest < 1 << 26, "a weight must fit 26 bits, not be {largest}");
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

    /// `target[row][pixel] = sum of weight * source byte`, rounded and limited to a byte, for each of three channels.
    /// `source` is rows of `width` pixels, `target` as many rows of one pixel for each target.
    ///
    /// # Panics
    /// If there are not as many whole rows in both.
    pub fn run(&self, source: &[u8], target: &mut [u8]) {
        let (from, to) = (self.width * CHANNELS, self.targets.len() * CHANNELS);
        assert!(from > 0 && to > 0, "rows must have pixels");
        let rows = source.len() / from;
        assert!(source.len() == rows * from && target.len() == rows * to, "source and target must be as many rows");
        let mut columns = vec![Column::default(); from.next_multiple_of(LANES)];
        let mut pairs = vec![Pair([0; 2 * LANES]); self.width.div_ceil(2) * CHANNELS];
        let mut sums = vec![Column::default(); to.next_multiple_of(LANES)];
        let level = level();
        for (source, target) in source.chunks(LANES * from).zip(target.chunks_mut(LANES * to)) {
            turn(source, from, &mut columns);
            join(&columns[..from], &mut pairs);
            level.run_integers(Rows { filter: self, pairs: &pairs, sums: &mut sums });
            turn_back(&sums, to, target);
        }
    }
}

/// One byte of up to 16 rows.
type Column = [u8; LANES];

/// One channel of two neighbouring pixels of 16 rows, less 128.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Pair([i8; 2 * LANES]);

/// Up to 16 rows of so many bytes as columns; rows that are not there as what was there before.
fn turn(rows: &[u8], width: usize, columns: &mut [Column]) {
    for (block, columns) in columns.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let at = block * LANES;
        let count = LANES.min(width - at);
        let mut square = [[0; LANES]; LANES];
        for (line, row) in square.iter_mut().zip(rows.chunks_exact(width)) {
            match row[at..].first_chunk::<LANES>() {
                Some(whole) => *line = *whole,
                None => line[..count].copy_from_slice(&row[at..]),
            }
        }
        *columns = transpose(square);
    }
}

/// Columns as up to 16 rows of so many bytes.
fn turn_back(columns: &[Column], width: usize, rows: &mut [u8]) {
    for (block, columns) in columns.as_chunks::<LANES>().0.iter().enumerate() {
        let at = block * LANES;
        let count = LANES.min(width - at);
        for (line, row) in transpose(*columns).iter().zip(rows.chunks_exact_mut(width)) {
            match row[at..].first_chunk_mut::<LANES>() {
                Some(whole) => *whole = *line,
                None => row[at..].copy_from_slice(&line[..count]),
            }
        }
    }
}

/// 16 rows of 16 bytes as 16 columns.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transpose(rows: [[u8; LANES]; LANES]) -> [[u8; LANES]; LANES] {
    use std::arch::x86_64::*;
    // Each round puts halves of lines i and i + 8 side by side, byte by byte; after four a line is a column.
    let round = |lines: [__m128i; LANES]| -> [__m128i; LANES] {
        std::array::from_fn(|i| {
            let (a, b) = (lines[i / 2], lines[i / 2 + 8]);
            // SAFETY: every x86-64 CPU has SSE2, and the instructions touch no memory.
            unsafe { if i % 2 == 0 { _mm_unpacklo_epi8(a, b) } else { _mm_unpackhi_epi8(a, b) } }
        })
    };
    // SAFETY: 16 bytes lie behind each pointer, and no alignment is asked for.
    let lines = rows.map(|row| unsafe { _mm_loadu_si128(row.as_ptr().cast()) });
    round(round(round(round(lines)))).map(|line| {
        let mut column = [0; LANES];
        // SAFETY: as above.
        unsafe { _mm_storeu_si128(column.as_mut_ptr().cast(), line) };
        column
    })
}

/// 16 rows of 16 bytes as 16 columns.
#[cfg(not(target_arch = "x86_64"))]
fn transpose(rows: [[u8; LANES]; LANES]) -> [[u8; LANES]; LANES] {
    std::array::from_fn(|column| rows.map(|row| row[column]))
}

/// Columns of neighbouring pixels in pairs: `pairs[pixel / 2][channel]`.
fn join(columns: &[Column], pairs: &mut [Pair]) {
    const NOTHING: Column = [128; LANES];
    for (pair, pixels) in pairs.as_chunks_mut::<CHANNELS>().0.iter_mut().zip(columns.chunks(2 * CHANNELS)) {
        for (channel, pair) in pair.iter_mut().enumerate() {
            let (first, second) = (&pixels[channel], pixels.get(CHANNELS + channel).unwrap_or(&NOTHING));
            interleave(first, second, &mut pair.0);
        }
    }
}

/// Bytes of two columns by turns, less 128.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn interleave(first: &Column, second: &Column, to: &mut [i8; 2 * LANES]) {
    use std::arch::x86_64::*;
    // SAFETY: every x86-64 CPU has SSE2; 16 bytes lie behind each column and 32 behind `to`, and no alignment is asked
    // for.
    unsafe {
        let signs = _mm_set1_epi8(i8::MIN);
        let [first, second] =
            [first, second].map(|column| _mm_xor_si128(_mm_loadu_si128(column.as_ptr().cast()), signs));
        let to = to.as_mut_ptr().cast::<__m128i>();
        _mm_storeu_si128(to, _mm_unpacklo_epi8(first, second));
        _mm_storeu_si128(to.add(1), _mm_unpackhi_epi8(first, second));
    }
}

/// Bytes of two columns by turns, less 128.
#[cfg(not(target_arch = "x86_64"))]
fn interleave(first: &Column, second: &Column, to: &mut [i8; 2 * LANES]) {
    for (to, (&first, &second)) in to.as_chunks_mut::<2>().0.iter_mut().zip(first.iter().zip(second)) {
        *to = [first, second].map(|byte| (byte ^ 128) as i8);
    }
}

/// Up to 16 rows, to their targets' bytes column by column.
struct Rows<'a> {
    filter: &'a RowFilter,
    pairs: &'a [Pair],
    sums: &'a mut [Column],
}

impl Kernel for Rows<'_> {
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
                // Whatever the parts, the whole fits.
                let upper = s.mul_i(upper[channel], s.splat_i(1 << LOWER_BITS));
                let sum = s.add_i(s.add_i(upper, lower[channel]), s.splat_i(*start));
                s.store_bytes(sum, filter.fraction_bits, &mut columns[channel]);
            }
        }
    }
}
