//! Attention with products and sums in f32, a tile of queries of one head at a time.

use super::panels::{HeadColumns, PREFETCH_ROWS, gather_values, transpose_keys};
use super::shape::{Context, Shape};
use super::softmax::softmax;
use crate::cpu::aligned::{F32x16, as_f32s};
use crate::cpu::dispatch::IsaLevel;
use crate::cpu::element::Element;
use crate::cpu::key_value_cache::{Heads, Stored};
use crate::cpu::math::store_partial;
use crate::cpu::microkernel::{Strided, sum_products, with_tile_size};
use crate::cpu::parallel::Disjoint;
use crate::cpu::scratch::{ThreadScratch, grow_to};
use crate::cpu::simd::{Kernel, LANES, Simd};

/// Rows of the tallest tile of any implementation.
pub(super) const MAX_TILE_ROWS: usize = 8;

/// The keys of one head in panels of 16 keys.
trait KeyPanels {
    type Element: Element;

    /// `count` panels from `panel` on, `[panel][dimension][16]`, of which `visible` keys are seen.
    fn take(&mut self, panel: usize, count: usize, visible: usize, dim: usize) -> &[Self::Element];
}

/// All panels, packed.
struct Packed<'a, E>(&'a [E]);

/// Rows of keys that are packed a few panels at a time into the buffer.
struct OnDemand<'a>(HeadColumns<'a>, &'a mut [F32x16]);

impl<E: Element> KeyPanels for Packed<'_, E> {
    type Element = E;

    #[inline(always)]
    fn take(&mut self, panel: usize, count: usize, _visible: usize, dim: usize) -> &[E] {
        &self.0[panel * dim * LANES..][..count * dim * LANES]
    }
}

impl KeyPanels for OnDemand<'_> {
    type Element = f32;

    #[inline(always)]
    fn take(&mut self, panel: usize, count: usize, visible: usize, dim: usize) -> &[f32] {
        let Self(rows, lines) = self;
        for (index, lines) in lines[..count * dim].chunks_mut(dim).enumerate() {
            transpose_keys(*rows, panel + index, visible, lines);
        }
        as_f32s(&lines[..count * dim])
    }
}

/// All queries of one job in one head.
pub(super) struct Head<'a> {
    pub(super) level: IsaLevel,
    pub(super) shape: &'a Shape<'a>,
    pub(super) head: usize,
    pub(super) out: &'a Disjoint<'a, f32>,
    pub(super) thread: &'a mut ThreadScratch,
}

impl Kernel for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.shape.context {
            Context::Cache(cache) => match cache.stored() {
                Stored::F32(cache) => self.over_cache(s, cache),
                Stored::Bf16(cache) => self.over_cache(s, cache),
            },
            Context::Rows { keys, values, stride } => self.over_rows(s, keys, values, stride),
        }
    }
}

impl Head<'_> {
    /// Keys are in panels and values contiguous already.
    #[inline(always)]
    fn over_cache<S: Simd, E: Element>(self, s: S, cache: &Heads<E>) {
        let Self { level, shape, head, out, thread } = self;
        let dim = shape.head_dim;
        let tiles = Tiles::of(level, shape, head, out);
        let keys = Packed(cache.keys(head));
        let values = HeadColumns { values: cache.values(head), stride: dim, dim };
        if dim.is_multiple_of(LANES) {
            // SAFETY: `Shape::of` checked that the cache holds all keys, and the caller of the kernel gives each head to
            // one unit.
            unsafe { tiles.attend(s, keys, in_place(values, 0), &mut thread.accumulators) };
        } else {
            let values = gathered(values, tiles.visible, &mut thread.values);
            // SAFETY: as above.
            unsafe { tiles.attend(s, keys, values, &mut thread.accumulators) };
        }
    }

    /// A single tile reads each key and value once, so keys are packed a few panels at a time and values are read in
    /// place. Several tiles share fully packed keys and values; rows whose stride is a large power of two would map to
    /// few cache sets.
    #[inline(always)]
    fn over_rows<S: Simd>(self, s: S, keys: &[f32], values: &[f32], stride: usize) {
        let Self { level, shape, head, out, thread } = self;
        let (dim, column) = (shape.head_dim, head * shape.head_dim);
        let tiles = Tiles::of(level, shape, head, out);
        let keys = HeadColumns { values: &keys[column..], stride, dim };
        let values = HeadColumns { values: &values[column..], stride, dim };
        let values = if tiles.count == 1 && dim.is_multiple_of(LANES) {
            in_place(values, PREFETCH_ROWS * stride)
        } else {
            gathered(values, tiles.visible, &mut thread.values)
        };
        if tiles.count == 1 {
            let keys = OnDemand(keys, grow_to(&mut thread.keys, tiles.panels * dim));
            // SAFETY: `Shape::of` checked that there is a row for every key, and the caller of the kernel gives each head
            // to one unit.
            unsafe { tiles.attend(s, keys, values, &mut thread.accumulators) };
        } else {
            let lines = grow_to(&mut thread.keys, tiles.visible.div_ceil(LANES) * dim);
            for (panel, lines) in lines.chunks_mut(dim).enumerate() {
                transpose_keys(keys, panel, tiles.visible, lines);
            }
            // SAFETY: as above.
            unsafe { tiles.attend(s, Packed(as_f32s(lines)), values, &mut thread.accumulators) };
        }
    }
}

/// Values that are read where they are.
#[inline(always)]
fn in_place<E>(values: HeadColumns<'_, E>, prefetch: usize) -> Strided<E> {
    Strided { start: values.values.as_ptr(), step: values.stride, row: LANES, prefetch }
}

/// Values that are packed into the buffer.
#[inline(always)]
fn gathered<E: Element>(values: HeadColumns<'_, E>, visible: usize, buffer: &mut Vec<F32x16>) -> Strided {
    let lines = grow_to(buffer, visible * values.dim.div_ceil(LANES));
    gather_values(values, visible, lines);
    Strided { start: lines.as_ptr().cast(), step: LANES, row: visible * LANES, prefetch: 0 }
}

/// The tiles of all queries of one job in one head.
struct Tiles<'a> {
    shape: &'a Shape<'a>,
    /// The head's first column.
    column: usize,
    out: &'a Disjoint<'a, f32>,
    count: usize,
    /// Panels of a tile.
    panels: usize,
    /// Keys visible to the last query.
    visible: usize,
}

impl<'a> Tiles<'a> {
    #[inline(always)]
    fn of(level: IsaLevel, shape: &'a Shape<'a>, head: usize, out: &'a Disjoint<'a, f32>) -> Self {
        let count = shape.rows.div_ceil(level.tile_rows(1));
        let panels = level.tile_panels(shape.rows.div_ceil(count), 1);
        let (column, visible) = (head * shape.head_dim, shape.visible_keys(shape.rows - 1));
        Self { shape, column, out, count, panels, visible }
    }

    /// # Safety
    /// `values` covers the head's `visible` values, and no other unit writes this head's columns.
    #[inline(always)]
    unsafe fn attend<S: Simd, V: Element>(
        &self,
        s: S,
        mut keys: impl KeyPanels,
        values: Strided<V>,
        accumulators: &mut Vec<F32x16>,
    ) {
        let Self { shape, column, out, count, panels: tile_panels, .. } = *self;
        for tile in 0..count {
            let first = shape.rows * tile / count;
            let rows = shape.rows * (tile + 1) / count - first;
            let panels = shape.visible_keys(first + rows - 1).div_ceil(LANES);
            let buffer = grow_to(accumulators, rows * panels + rows * tile_panels);
            let (scores, sums) = buffer.split_at_mut(rows * panels);
            let tile = QueryTile { shape, column, first, rows, tile_panels, panels };
            tile.score(s, &mut keys, scores);
            let mut inverses = [0.0; MAX_TILE_ROWS];
            for (r, scores) in scores.chunks_mut(panels).enumerate() {
                inverses[r] = 1.0 / softmax(s, scores, shape.visible_keys(first + r), shape.head_dim);
            }
            // SAFETY: guaranteed by the caller.
            unsafe { tile.weighted_sums(s, scores, &inverses, values, sums, out) };
        }
    }
}

/// A tile of queries of one head.
struct QueryTile<'a> {
    shape: &'a Shape<'a>,
    /// The head's first column.
    column: usize,
    /// The first query.
    first: usize,
    rows: usize,
    /// Panels of a tile.
    tile_panels: usize,
    /// Panels of the keys visible to the last of the queries.
    panels: usize,
}

/// How many of the remaining panels to compute next. Fewer than two would leave too few independent accumulators.
#[inline(always)]
pub(super) fn next_panels(tile_panels: usize, remaining: usize) -> usize {
    match remaining {
        1 => 1,
        _ if remaining >= tile_panels => tile_panels,
        _ if tile_panels > 2 => 2,
        _ => 1,
    }
}

impl QueryTile<'_> {
    /// Products of queries and keys: `scores[query][key]`.
    #[inline(always)]
    fn score<S: Simd>(&self, s: S, keys: &mut impl KeyPanels, scores: &mut [F32x16]) {
        let Self { shape, column, first, rows, panels, .. } = *self;
        let dim = shape.head_dim;
        let queries = Strided {
            start: shape.queries[first * shape.query_stride + column..].as_ptr(),
            step: 1,
            row: shape.query_stride,
            prefetch: 0,
        };
        let visible = shape.visible_keys(first + rows - 1);
        let mut panel = 0;
        while panel < panels {
            let count = next_panels(self.tile_panels, panels - panel);
            let keys = keys.take(panel, count, visible, dim);
            let keys = Strided { start: keys.as_ptr(), step: LANES, row: dim * LANES, prefetch: 0 };
            let to = &mut scores[panel..];
            // SAFETY: `Shape::of` checked that every query is in its slice, and `keys` holds `count` panels of `dim`
            // vectors.
            with_tile_size!(S, rows, count, R, P => unsafe {
                s.call(Products::<_, R, P>::new(dim, queries, keys, to, panels))
            });
            panel += count;
        }
    }

    /// Sums of the values weighted by the scores, times the factor of each row, into `out`.
    ///
    /// # Safety
    /// `values` covers the head's values of all keys that the tile sees, and no other thread writes the head's columns.
    #[inline(always)]
    unsafe fn weighted_sums<S: Simd, V: Element>(
        &self,
        s: S,
        scores: &[F32x16],
        factors: &[f32],
        values: Strided<V>,
        sums: &mut [F32x16],
        out: &Disjoint<'_, f32>,
    ) {
        let Self { shape, column, first, rows, panels, .. } = *self;
        let dim = shape.head_dim;
        let visible = shape.visible_keys(first + rows - 1);
        let weights = Strided { start: scores.as_ptr().cast(), step: 1, row: panels * LANES, prefetch: 0 };
        let mut panel = 0;
        while panel * LANES < dim {
            let count = next_panels(self.tile_panels, dim.div_ceil(LANES) - panel);
            // SAFETY: within the values: panels are `row` floats apart.
            let values = Strided { start: unsafe { values.start.add(panel * values.row) }, ..values };
            // SAFETY: scores hold `panels * 16 >= visible` values for each row, and the caller guarantees the values.
            with_tile_size!(S, rows, count, R, P => unsafe {
                s.call(Products::<_, R, P>::new(visible, weights, values, sums, count))
            });
            for (index, vector) in sums[..rows * count].iter().enumerate() {
                let (r, lane) = (index / count, (panel + index % count) * LANES);
                let at = (first + r) * shape.heads * dim + column + lane;
                // SAFETY: guaranteed by the caller.
                let to = unsafe { out.part(at, LANES.min(dim - lane)) };
                store_partial(s, s.mul(s.load(&vector.0), s.splat(factors[r])), to);
            }
            panel += count;
        }
    }
}

/// Products of a tile of rows and panels, into `to[r * to_row + p]`.
struct Products<'a, E, const R: usize, const P: usize> {
    steps: usize,
    x: Strided,
    w: Strided<E>,
    to: &'a mut [F32x16],
    to_row: usize,
}

impl<'a, E: Element, const R: usize, const P: usize> Products<'a, E, R, P> {
    /// # Safety
    /// As for [`sum_products`].
    unsafe fn new(steps: usize, x: Strided, w: Strided<E>, to: &'a mut [F32x16], to_row: usize) -> Self {
        Self { steps, x, w, to, to_row }
    }
}

impl<E: Element, const R: usize, const P: usize> Kernel for Products<'_, E, R, P> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "an iterator would keep the accumulators in memory")]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: guaranteed by the caller of `new`.
        let sums = unsafe { sum_products::<S, E, R, P>(s, self.steps, self.x, self.w) };
        for r in 0..R {
            for p in 0..P {
                s.store(sums[r][p], &mut self.to[r * self.to_row + p].0);
            }
        }
    }
}
