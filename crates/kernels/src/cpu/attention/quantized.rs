//! Attention with products of 16-bit integers, of which a CPU computes twice as many as of f32 in the same time.
//!
//! Queries and keys are rounded with a scale for each of them, the values of a head with a scale for each dimension, and
//! the softmax's weights with a scale for each query. Scales are as fine as exact sums in i32 allow.

use super::panels::{HeadColumns, transpose_keys};
use super::shape::{Context, Shape};
use super::softmax::mask_and_max;
use super::tiled::{MAX_TILE_ROWS, next_panels};
use crate::cpu::aligned::{F32x16, I16Pairs, as_pairs_mut};
use crate::cpu::dispatch::IsaLevel;
use crate::cpu::math::{exp2_coarse, load_partial, store_partial};
use crate::cpu::microkernel::with_tile_size;
use crate::cpu::parallel::Disjoint;
use crate::cpu::rounding::{MaxAbs, max_abs};
use crate::cpu::scratch::{QuantizedOperands, ThreadScratch, grow_to};
use crate::cpu::simd::{Kernel, LANES, Simd};

/// More keys than an image has, and few enough that equal weights are still some hundreds of steps each.
pub(super) const MAX_KEYS: usize = 1 << 12;

/// The largest rounded value.
const MAX_VALUE: f32 = 4095.0;

/// The largest rounded weight, query or key.
const MAX_WEIGHT: f32 = 32_767.0;

/// The largest sum of a query's rounded weights. Plus a rounding error of one half for each key and times
/// [`MAX_VALUE`], it is below 2^31.
const MAX_WEIGHT_SUM: f32 = 522_000.0;

const _: () = assert!((MAX_WEIGHT_SUM as i64 + MAX_KEYS as i64 / 2) * (MAX_VALUE as i64) < 1 << 31);

/// All queries of one job in one head; every query sees all keys.
pub(super) struct QuantizedHead<'a> {
    pub(super) level: IsaLevel,
    pub(super) shape: &'a Shape<'a>,
    pub(super) head: usize,
    pub(super) out: &'a Disjoint<'a, f32>,
    pub(super) thread: &'a mut ThreadScratch,
}

impl Kernel for QuantizedHead<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { level, shape, head, out, thread } = self;
        let Context::Rows { keys, values, stride } = shape.context else { unreachable!("the caller checked for rows") };
        let (dim, visible) = (shape.head_dim, shape.key_count);
        let (panels, value_panels) = (visible.div_ceil(LANES), dim.div_ceil(LANES));
        let (dim_pairs, key_pairs) = (dim.div_ceil(2), visible.div_ceil(2));
        let column = head * dim;
        let ThreadScratch { accumulators, keys: transposed, quantized, .. } = thread;
        let QuantizedOperands {
            keys: rounded_keys,
            key_scales,
            values: rounded_values,
            value_scales,
            rows: rounded_rows,
        } = quantized;

        let largest = max_factor(dim);
        let (rounded_keys, key_scales) = (grow_to(rounded_keys, panels * dim_pairs), grow_to(key_scales, panels));
        let keys = HeadColumns { values: &keys[column..], stride, dim };
        let transposed = grow_to(transposed, dim);
        for (panel, (pairs, scale)) in rounded_keys.chunks_mut(dim_pairs).zip(&mut *key_scales).enumerate() {
            transpose_keys(keys, panel, visible, transposed);
            round_keys(s, transposed, largest, pairs, scale);
        }
        let (rounded_values, value_scales) =
            (grow_to(rounded_values, value_panels * key_pairs), grow_to(value_scales, value_panels));
        for (panel, (pairs, scale)) in rounded_values.chunks_mut(key_pairs).zip(&mut *value_scales).enumerate() {
            let lanes = LANES.min(dim - panel * LANES);
            round_values(s, &values[column + panel * LANES..], stride, lanes, visible, pairs, scale);
        }

        let tiles = shape.rows.div_ceil(level.tile_rows(1));
        let tile_panels = level.tile_panels(shape.rows.div_ceil(tiles), 1);
        for tile in 0..tiles {
            let first = shape.rows * tile / tiles;
            let rows = shape.rows * (tile + 1) / tiles - first;
            let buffer = grow_to(accumulators, rows * panels + rows * value_panels);
            let (scores, sums) = buffer.split_at_mut(rows * panels);
            let mut factors = [0.0; MAX_TILE_ROWS];
            // Pairs of a row, padded to whole vectors.
            let row = value_panels * LANES / 2;
            let queries = &mut as_pairs_mut(grow_to(rounded_rows, (rows * row).div_ceil(LANES)))[..rows * row];
            for ((index, pairs), factor) in queries.chunks_mut(row).enumerate().zip(&mut factors) {
                let query = &shape.queries[(first + index) * shape.query_stride + column..][..dim];
                // Scores are exponents of two.
                *factor = round_query(s, query, largest, pairs) * std::f32::consts::LOG2_E / (dim as f32).sqrt();
            }
            let operands = Operands {
                steps: dim_pairs,
                x: queries,
                x_row: row,
                w: rounded_keys,
                w_row: dim_pairs,
                columns: key_scales,
                rows: &factors,
            };
            multiply(s, &operands, tile_panels, scores);

            let row = panels * LANES / 2;
            let weights = &mut as_pairs_mut(grow_to(rounded_rows, (rows * row).div_ceil(LANES)))[..rows * row];
            for ((scores, pairs), factor) in scores.chunks_mut(panels).zip(weights.chunks_mut(row)).zip(&mut factors) {
                *factor = round_weights(s, scores, visible, pairs);
            }
            let operands = Operands {
                steps: key_pairs,
                x: weights,
                x_row: row,
                w: rounded_values,
                w_row: key_pairs,
                columns: value_scales,
                rows: &factors,
            };
            multiply(s, &operands, tile_panels, sums);
            for (index, vector) in sums.iter().enumerate() {
                let (r, lane) = (index / value_panels, index % value_panels * LANES);
                let at = (first + r) * shape.heads * dim + column + lane;
                // SAFETY: no other unit writes this head's columns.
                store_partial(s, s.load(&vector.0), unsafe { out.part(at, LANES.min(dim - lane)) });
            }
        }
    }
}

/// The largest rounded query or key value whose products over `dim` dimensions sum exactly in i32.
fn max_factor(dim: usize) -> f32 {
    MAX_WEIGHT.min((i32::MAX as f32 / dim as f32).sqrt().floor() - 1.0)
}

/// The scales with which the largest magnitude of each lane becomes `largest`, and their inverses. A scale is NaN if a
/// value is not finite.
#[inline(always)]
fn scales<S: Simd>(s: S, lanes: &MaxAbs<S>, largest: f32) -> (S::F, S::F) {
    let zero = s.splat(0.0);
    let inverse = s.select_less(zero, lanes.max, s.div(s.splat(largest), lanes.max), zero);
    (s.add(s.mul(lanes.max, s.splat(1.0 / largest)), lanes.non_finite), inverse)
}

/// Rounds a query and returns its scale. Pairs beyond its end are zeros.
#[inline(always)]
fn round_query<S: Simd>(s: S, query: &[f32], largest: f32, pairs: &mut [i32]) -> f32 {
    let (size, non_finite) = max_abs(s, query);
    let inverse = s.splat(if size > 0.0 { largest / size } else { 0.0 });
    for (values, pairs) in query.chunks(LANES).zip(pairs.as_chunks_mut().0) {
        s.store_pairs(s.to_i32(s.mul(load_partial(s, values, 0.0), inverse)), pairs);
    }
    size / largest + non_finite
}

/// Rounds a transposed panel of keys, with a scale for each key, into pairs of dimensions.
#[inline(always)]
fn round_keys<S: Simd>(s: S, dimensions: &[F32x16], largest: f32, pairs: &mut [I16Pairs], scale: &mut F32x16) {
    let mut lanes = MaxAbs::zero(s);
    for vector in dimensions {
        lanes.add(s, s.load(&vector.0));
    }
    let (steps, inverse) = scales(s, &lanes, largest);
    s.store(steps, &mut scale.0);
    for (dimensions, pairs) in dimensions.chunks(2).zip(pairs) {
        let mut pair = [s.zero_i(); 2];
        for (to, vector) in pair.iter_mut().zip(dimensions) {
            *to = s.to_i32(s.mul(s.load(&vector.0), inverse));
        }
        s.store_i(s.join_pairs(pair[0], pair[1]), &mut pairs.0);
    }
}

/// Rounds up to 16 dimensions of all values, with a scale for each dimension, into pairs of keys.
#[inline(always)]
fn round_values<S: Simd>(
    s: S,
    values: &[f32],
    stride: usize,
    lanes: usize,
    visible: usize,
    pairs: &mut [I16Pairs],
    scale: &mut F32x16,
) {
    let mut largest = MaxAbs::zero(s);
    for index in 0..visible {
        largest.add(s, load_partial(s, &values[index * stride..][..lanes], 0.0));
    }
    let (steps, inverse) = scales(s, &largest, MAX_VALUE);
    s.store(steps, &mut scale.0);
    for (index, pairs) in pairs.iter_mut().enumerate() {
        let mut pair = [s.zero_i(); 2];
        for (to, index) in pair.iter_mut().zip(2 * index..visible) {
            *to = s.to_i32(s.mul(load_partial(s, &values[index * stride..][..lanes], 0.0), inverse));
        }
        s.store_i(s.join_pairs(pair[0], pair[1]), &mut pairs.0);
    }
}

/// The rounded softmax of scores that are exponents of two, and the scale of its weights. The weights of scores from
/// `visible` on are zeros.
#[inline(always)]
fn round_weights<S: Simd>(s: S, scores: &mut [F32x16], visible: usize, pairs: &mut [i32]) -> f32 {
    let largest = mask_and_max(s, scores, visible);
    let mut sum = s.splat(0.0);
    for vector in &mut *scores {
        let value = exp2_coarse(s, s.sub(s.load(&vector.0), largest));
        sum = s.add(sum, value);
        s.store(value, &mut vector.0);
    }
    let sum = s.sum_lanes(sum);
    let scale = MAX_WEIGHT.min(MAX_WEIGHT_SUM / sum);
    let mut rounded_sum = s.zero_i();
    for (vector, pairs) in scores.iter().zip(pairs.as_chunks_mut().0) {
        let rounded = s.to_i32(s.mul(s.load(&vector.0), s.splat(scale)));
        rounded_sum = s.add_i(rounded_sum, rounded);
        s.store_pairs(rounded, pairs);
    }
    // Normalized by the sum of the rounded weights, so that they add up to one. A NaN in the scores is kept.
    1.0 / s.sum_lanes_i(rounded_sum) as f32 + 0.0 * sum
}

/// Rows and panels of pairs to multiply, and the scales of the sums of products.
struct Operands<'a> {
    steps: usize,
    x: &'a [i32],
    /// Distance from one row to the next.
    x_row: usize,
    w: &'a [I16Pairs],
    /// Distance from one panel to the next.
    w_row: usize,
    /// Scales of the columns, a vector for each panel.
    columns: &'a [F32x16],
    /// Scales of the rows.
    rows: &'a [f32],
}

/// Computes `to[row][panel]`.
#[inline(always)]
fn multiply<S: Simd>(s: S, operands: &Operands<'_>, tile_panels: usize, to: &mut [F32x16]) {
    let (rows, panels) = (operands.x.len() / operands.x_row, operands.columns.len());
    let mut panel = 0;
    while panel < panels {
        let count = next_panels(tile_panels, panels - panel);
        let to = &mut to[panel..];
        with_tile_size!(S, rows, count, R, P => s.call(Products::<R, P> { operands, panel, to }));
        panel += count;
    }
}

/// A tile of the products, from a panel on.
struct Products<'a, const R: usize, const P: usize> {
    operands: &'a Operands<'a>,
    panel: usize,
    to: &'a mut [F32x16],
}

impl<const R: usize, const P: usize> Kernel for Products<'_, R, P> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "an iterator would keep the accumulators in memory")]
    fn run<S: Simd>(self, s: S) {
        let Self { operands: &Operands { steps, x, x_row, w, w_row, columns, rows }, panel, to } = self;
        let w = &w[panel * w_row..];
        assert!(steps <= x_row && x.len() >= R * x_row, "there must be {R} rows of {steps} pairs");
        assert!(steps <= w_row && w.len() >= P * w_row, "there must be {P} panels of {steps} pairs");
        let mut sums = [[s.zero_i(); P]; R];
        for step in 0..steps {
            let mut factors = [s.zero_i(); P];
            for p in 0..P {
                // SAFETY: within P panels, as asserted.
                factors[p] = s.load_i(&unsafe { w.get_unchecked(p * w_row + step) }.0);
            }
            for r in 0..R {
                // SAFETY: within R rows, as asserted.
                let factor = s.splat_i(unsafe { *x.get_unchecked(r * x_row + step) });
                for p in 0..P {
                    sums[r][p] = s.dot_pairs(sums[r][p], factors[p], factor);
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
