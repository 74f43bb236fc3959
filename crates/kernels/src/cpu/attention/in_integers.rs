//! Attention with products of 16-bit integers, of which a CPU does twice as many in the same time as of f32.
//!
//! Queries and keys become multiples of a scale for each of them, a head's values of one for each dimension, and softmax's
//! weights of one for each query; all are so fine as sums that stay exact in i32 allow.

use super::{Context, Shape, at_once, largest_seen};
use crate::cpu::activations::{Sizes, Worker, largest_and_taint, room};
use crate::cpu::columns::{Column, transpose_keys};
use crate::cpu::dispatch::IsaLevel;
use crate::cpu::math::{exp2_coarse, load_part, store_part};
use crate::cpu::parallel::Disjoint;
use crate::cpu::simd::{Kernel, LANES, Simd};
use crate::cpu::tile::{Line, with_tile_size};

/// More keys than a picture has, and few enough for weights of some hundreds where all are the same.
pub(super) const MOST_KEYS: usize = 1 << 12;

/// The largest values, in multiples of their scale.
const LARGEST_VALUE: f32 = 4095.0;

/// The largest weight.
const LARGEST_WEIGHT: f32 = 32_767.0;

/// The largest sum of a query's weights: with half for the rounding of each, times [`LARGEST_VALUE`], below 2^31.
const LARGEST_SUM: f32 = 522_000.0;

const _: () = assert!((LARGEST_SUM as i64 + MOST_KEYS as i64 / 2) * (LARGEST_VALUE as i64) < 1 << 31);

/// 16 pairs of i16, the first in the low half.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Pairs([i32; LANES]);

/// Pairs as the integers they are made of.
fn singles(pairs: &mut [Pairs]) -> &mut [i32] {
    // SAFETY: `Pairs` is 16 integers in 64 bytes, without padding, and the pairs are borrowed mutably.
    unsafe { std::slice::from_raw_parts_mut(pairs.as_mut_ptr().cast(), pairs.len() * LANES) }
}

/// One thread's memory.
#[derive(Debug, Default)]
pub(crate) struct Rounded {
    keys: Vec<Pairs>,
    key_scales: Vec<Line>,
    values: Vec<Pairs>,
    value_scales: Vec<Line>,
    rows: Vec<Pairs>,
}

/// All queries of one job in one head; every query sees all keys.
pub(super) struct IntegerHead<'a> {
    pub(super) level: IsaLevel,
    pub(super) shape: &'a Shape<'a>,
    pub(super) head: usize,
    pub(super) out: &'a Disjoint<'a, f32>,
    pub(super) worker: &'a mut Worker,
}

impl Kernel for IntegerHead<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { level, shape, head, out, worker } = self;
        let Context::Rows { keys, values, stride } = shape.context else { unreachable!("keys were found to be rows") };
        let (dim, seen) = (shape.head_dim, shape.key_count);
        let (panels, value_panels) = (seen.div_ceil(LANES), dim.div_ceil(LANES));
        let (dim_pairs, seen_pairs) = (dim.div_ceil(2), seen.div_ceil(2));
        let column = head * dim;
        let Worker { tiles: buffer, keys: turned, rounded, .. } = worker;
        let Rounded { keys: key_pairs, key_scales, values: value_pairs, value_scales, rows: row_pairs } = rounded;

        let largest = largest_factor(dim);
        let (key_pairs, key_scales) = (room(key_pairs, panels * dim_pairs), room(key_scales, panels));
        let keys = Column { from: &keys[column..], stride, dim };
        let turned = room(turned, dim);
        for (panel, (pairs, scale)) in key_pairs.chunks_mut(dim_pairs).zip(&mut *key_scales).enumerate() {
            transpose_keys(keys, panel, seen, turned);
            round_panel(s, turned, largest, pairs, scale);
        }
        let (value_pairs, value_scales) =
            (room(value_pairs, value_panels * seen_pairs), room(value_scales, value_panels));
        for (panel, (pairs, scale)) in value_pairs.chunks_mut(seen_pairs).zip(&mut *value_scales).enumerate() {
            let lanes = LANES.min(dim - panel * LANES);
            round_values(s, &values[column + panel * LANES..], stride, lanes, seen, pairs, scale);
        }

        let tiles = shape.rows.div_ceil(level.tile_rows(1));
        let wide = level.tile_panels(shape.rows.div_ceil(tiles), 1);
        for tile in 0..tiles {
            let first = shape.rows * tile / tiles;
            let rows = shape.rows * (tile + 1) / tiles - first;
            let buffer = room(buffer, rows * panels + rows * value_panels);
            let (scores, sums) = buffer.split_at_mut(rows * panels);
            // Where the products' first operands lie: a row's pairs end with its last vector.
            let mut factors = [0.0; super::MOST_ROWS];
            let row = value_panels * LANES / 2;
            let queries = &mut singles(room(row_pairs, (rows * row).div_ceil(LANES)))[..rows * row];
            for ((index, pairs), factor) in queries.chunks_mut(row).enumerate().zip(&mut factors) {
                let query = &shape.queries[(first + index) * shape.query_stride + column..][..dim];
                // Scores come as powers of two.
                *factor = round_row(s, query, largest, pairs) * std::f32::consts::LOG2_E / (dim as f32).sqrt();
            }
            let from = Operands {
                steps: dim_pairs,
                x: queries,
                x_row: row,
                w: key_pairs,
                w_row: dim_pairs,
                columns: key_scales,
                rows: &factors,
            };
            multiply(s, &from, wide, scores);

            let row = panels * LANES / 2;
            let weights = &mut singles(room(row_pairs, (rows * row).div_ceil(LANES)))[..rows * row];
            for ((scores, pairs), factor) in scores.chunks_mut(panels).zip(weights.chunks_mut(row)).zip(&mut factors) {
                *factor = round_weights(s, scores, seen, pairs);
            }
            let from = Operands {
                steps: seen_pairs,
                x: weights,
                x_row: row,
                w: value_pairs,
                w_row: seen_pairs,
                columns: value_scales,
                rows: &factors,
            };
            multiply(s, &from, wide, sums);
            for (index, line) in sums.iter().enumerate() {
                let (r, lane) = (index / value_panels, index % value_panels * LANES);
                let at = (first + r) * shape.heads * dim + column + lane;
                // SAFETY: this unit alone works on this head's columns.
                store_part(s, s.load(&line.0), unsafe { out.part(at, LANES.min(dim - lane)) });
            }
        }
    }
}

/// The largest multiple of their scale that queries and keys of so many dimensions may have.
fn largest_factor(dim: usize) -> f32 {
    LARGEST_WEIGHT.min((i32::MAX as f32 / dim as f32).sqrt().floor() - 1.0)
}

/// Scales that make the largest of each lane `largest`, and their inverses. NaN where a value is not finite.
#[inline(always)]
fn scales<S: Simd>(s: S, sizes: &Sizes<S>, largest: f32) -> (S::F, S::F) {
    let zero = s.splat(0.0);
    let inverse = s.select_less(zero, sizes.largest, s.div(s.splat(largest), sizes.largest), zero);
    (s.add(s.mul(sizes.largest, s.splat(1.0 / largest)), sizes.taint), inverse)
}

/// A row as multiples of the scale that is given back. Pairs behind its end are zeros.
#[inline(always)]
fn round_row<S: Simd>(s: S, row: &[f32], largest: f32, pairs: &mut [i32]) -> f32 {
    let (size, taint) = largest_and_taint(s, row);
    let inverse = s.splat(if size > 0.0 { largest / size } else { 0.0 });
    for (values, pairs) in row.chunks(LANES).zip(pairs.as_chunks_mut().0) {
        s.store_pairs(s.to_i32(s.mul(load_part(s, values, 0.0), inverse)), pairs);
    }
    size / largest + taint
}

/// A panel of keys, dimension by dimension, as multiples of a scale for each key: pairs of dimensions.
#[inline(always)]
fn round_panel<S: Simd>(s: S, dimensions: &[Line], largest: f32, pairs: &mut [Pairs], scale: &mut Line) {
    let mut sizes = Sizes::none(s);
    for line in dimensions {
        sizes.add(s, s.load(&line.0));
    }
    let (steps, inverse) = scales(s, &sizes, largest);
    s.store(steps, &mut scale.0);
    for (dimensions, pairs) in dimensions.chunks(2).zip(pairs) {
        let mut pair = [s.zero_i(); 2];
        for (to, line) in pair.iter_mut().zip(dimensions) {
            *to = s.to_i32(s.mul(s.load(&line.0), inverse));
        }
        s.store_i(s.join_pairs(pair[0], pair[1]), &mut pairs.0);
    }
}

/// Up to 16 dimensions of all values as multiples of a scale for each dimension: pairs of values.
#[inline(always)]
fn round_values<S: Simd>(
    s: S,
    values: &[f32],
    stride: usize,
    lanes: usize,
    seen: usize,
    pairs: &mut [Pairs],
    scale: &mut Line,
) {
    let mut sizes = Sizes::none(s);
    for index in 0..seen {
        sizes.add(s, load_part(s, &values[index * stride..][..lanes], 0.0));
    }
    let (steps, inverse) = scales(s, &sizes, LARGEST_VALUE);
    s.store(steps, &mut scale.0);
    for (index, pairs) in pairs.iter_mut().enumerate() {
        let mut pair = [s.zero_i(); 2];
        for (to, index) in pair.iter_mut().zip(2 * index..seen) {
            *to = s.to_i32(s.mul(load_part(s, &values[index * stride..][..lanes], 0.0), inverse));
        }
        s.store_i(s.join_pairs(pair[0], pair[1]), &mut pairs.0);
    }
}

/// The softmax of scores that are powers of two, as multiples of the factor that is given back. Scores past `seen` become
/// zeros.
#[inline(always)]
fn round_weights<S: Simd>(s: S, scores: &mut [Line], seen: usize, pairs: &mut [i32]) -> f32 {
    let largest = largest_seen(s, scores, seen);
    let mut sum = s.splat(0.0);
    for line in &mut *scores {
        let value = exp2_coarse(s, s.sub(s.load(&line.0), largest));
        sum = s.add(sum, value);
        s.store(value, &mut line.0);
    }
    let sum = s.sum_lanes(sum);
    let scale = LARGEST_WEIGHT.min(LARGEST_SUM / sum);
    let mut whole_sum = s.zero_i();
    for (line, pairs) in scores.iter().zip(pairs.as_chunks_mut().0) {
        let whole = s.to_i32(s.mul(s.load(&line.0), s.splat(scale)));
        whole_sum = s.add_i(whole_sum, whole);
        s.store_pairs(whole, pairs);
    }
    // The weights as they are now add up to one; what was no number stays none.
    1.0 / s.sum_lanes_i(whole_sum) as f32 + 0.0 * sum
}

/// Rows of pairs and panels of them, and what their sums of products are multiplied by.
struct Operands<'a> {
    steps: usize,
    x: &'a [i32],
    /// From one row to the next.
    x_row: usize,
    w: &'a [Pairs],
    /// From one panel to the next.
    w_row: usize,
    /// For each panel.
    columns: &'a [Line],
    /// For each row.
    rows: &'a [f32],
}

/// `to[row][panel]`.
#[inline(always)]
fn multiply<S: Simd>(s: S, from: &Operands<'_>, wide: usize, to: &mut [Line]) {
    let (rows, panels) = (from.x.len() / from.x_row, from.columns.len());
    let mut panel = 0;
    while panel < panels {
        let count = at_once(wide, panels - panel);
        let to = &mut to[panel..];
        with_tile_size!(S, rows, count, R, P => s.call(Products::<R, P> { from, panel, to }));
        panel += count;
    }
}

/// A tile of them, from a panel on.
struct Products<'a, const R: usize, const P: usize> {
    from: &'a Operands<'a>,
    panel: usize,
    to: &'a mut [Line],
}

impl<const R: usize, const P: usize> Kernel for Products<'_, R, P> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "an iterator would take the sums through memory")]
    fn run<S: Simd>(self, s: S) {
        let Self { from: &Operands { steps, x, x_row, w, w_row, columns, rows }, panel, to } = self;
        let w = &w[panel * w_row..];
        assert!(steps <= x_row && x.len() >= R * x_row, "there must be {R} rows of {steps} pairs");
        assert!(steps <= w_row && w.len() >= P * w_row, "there must be {P} panels of {steps} pairs");
        let mut sums = [[s.zero_i(); P]; R];
        for step in 0..steps {
            let mut operands = [s.zero_i(); P];
            for p in 0..P {
                // SAFETY: of P panels, as asserted.
                operands[p] = s.load_i(&unsafe { w.get_unchecked(p * w_row + step) }.0);
            }
            for r in 0..R {
                // SAFETY: of R rows, as asserted.
                let factor = s.splat_i(unsafe { *x.get_unchecked(r * x_row + step) });
                for p in 0..P {
                    sums[r][p] = s.dot_pairs(sums[r][p], operands[p], factor);
                }
            }
        }
        let panels = columns.len();
        for p in 0..P {
            let column = s.load(&columns[panel + p].0);
            for r in 0..R {
                let value = s.mul(s.mul(s.to_f32(sums[r][p]), column), s.splat(rows[r]));
                s.store(value, &mut to[r * panels + p].0);
            }
        }
    }
}
