//! Scaled dot-product attention, a few queries of one head at a time.

mod in_integers;
mod lone_query;

use super::activations::{Scratch, Worker, room};
use super::columns::{AHEAD, Column, gather_values, transpose_keys};
use super::dispatch::{IsaLevel, level};
use super::key_values::KeyValueCache;
use super::math::{exp2_falling, store_part};
use super::parallel::{Disjoint, for_units};
use super::simd::{Kernel, LANES, Simd};
use super::tile::{Line, Strided, flat, flat_mut, sum_products, with_tile_size};
use in_integers::{IntegerHead, MOST_KEYS};
use lone_query::{LONE_PANELS, LoneQuery, TOGETHER};

pub(crate) use in_integers::Rounded;

/// One sequence's queries over its keys and values. Rows are tokens: `[token][heads * head_dim]`.
///
/// A query's result depends on the keys it sees alone, bit for bit, however the queries are cut into jobs and wherever
/// the keys lie. Values it does not see must be finite all the same.
#[derive(Debug)]
pub struct Attention<'a> {
    /// One row for each row of `out`.
    pub queries: &'a [f32],
    /// From one query to the next.
    pub query_stride: usize,
    /// What they attend to.
    pub context: Context<'a>,
    /// Keys there are, at least 1.
    pub key_count: usize,
    /// With `Some(offset)` query i sees keys `0..=offset + i`, with `None` all.
    pub causal_offset: Option<usize>,
    /// `[queries, heads * head_dim]`, without gaps.
    pub out: &'a mut [f32],
}

/// Where keys and values lie.
#[derive(Clone, Copy, Debug)]
pub enum Context<'a> {
    /// As rows of tokens, `key_count` of each.
    Rows {
        /// Rows of keys.
        keys: &'a [f32],
        /// Rows of values.
        values: &'a [f32],
        /// From one key, or value, to the next.
        stride: usize,
    },
    /// As the sequence keeps them.
    Cache(&'a KeyValueCache),
}

/// `out = softmax(queries keys^T / sqrt(head_dim)) values` for each job and head, in parallel over both.
///
/// # Panics
/// If a job's slices are too short for its counts and strides, its cache is of other heads, or it has queries and no
/// keys.
pub fn attention(jobs: &mut [Attention<'_>], heads: usize, head_dim: usize, scratch: &mut Scratch) {
    assert!(heads > 0 && head_dim > 0, "attention must have heads of some width");
    let width = heads.saturating_mul(head_dim);
    let mut work = 0;
    let mut targets = Vec::with_capacity(jobs.len());
    for job in jobs {
        let shape = Shape::of(job, heads, head_dim);
        if shape.rows > 0 {
            work += 2 * shape.rows * shape.seen_by(shape.rows - 1) * width;
            targets.push((shape, Disjoint::new(job.out)));
        }
    }
    let level = level();
    let mut units = Vec::with_capacity(targets.len() * heads);
    for (job, (shape, _)) in targets.iter().enumerate() {
        let together =
            if level.tile_rows(1) >= TOGETHER * LONE_PANELS && shape.is_lone() { heads / TOGETHER } else { 0 };
        units.extend((0..together).map(|part| (job, part * TOGETHER, TOGETHER)));
        units.extend((together * TOGETHER..heads).map(|head| (job, head, 1)));
    }
    let threads = scratch.threads_for(work, units.len());
    for_units(units.len(), scratch.workers(threads), |unit, worker| {
        let (job, head, count) = units[unit];
        let (shape, out) = &targets[job];
        if count == TOGETHER {
            level.run(LoneQuery { shape, head, out, worker });
        } else {
            level.run(Head { level, shape, head, out, worker });
        }
    });
}

/// [`attention`] of queries that see all of their keys, with products of 16-bit integers: about twice as fast where there
/// are many queries, with an error of some 3e-4. Integers are too coarse for more than 4096 keys: those are left to
/// [`attention`].
///
/// # Panics
/// As [`attention`], and if the keys lie in a cache or are seen by some of the queries only.
pub fn attention_in_integers(job: Attention<'_>, heads: usize, head_dim: usize, scratch: &mut Scratch) {
    assert!(heads > 0 && head_dim > 0, "attention must have heads of some width");
    let shape = Shape::of(&job, heads, head_dim);
    assert!(matches!(job.context, Context::Rows { .. }), "keys and values must be rows");
    assert!(job.causal_offset.is_none(), "every query must see all keys");
    if job.key_count > MOST_KEYS {
        return attention(&mut [job], heads, head_dim, scratch);
    }
    if shape.rows == 0 {
        return;
    }
    let (level, out) = (level(), Disjoint::new(job.out));
    let threads = scratch.threads_for(shape.rows * shape.key_count * heads * head_dim, heads);
    for_units(heads, scratch.workers(threads), |head, worker| {
        level.run_integers(IntegerHead { level, shape: &shape, head, out: &out, worker });
    });
}

fn check(job: &Attention<'_>, queries: usize, heads: usize, head_dim: usize) {
    let width = heads * head_dim;
    let reaches = |rows: usize, stride: usize| match rows {
        0 => 0,
        _ => (rows - 1).saturating_mul(stride).saturating_add(width),
    };
    assert!(job.out.len() == queries * width, "out must hold whole rows of {width} values, not {}", job.out.len());
    assert!(queries == 0 || job.key_count > 0, "queries must have a key to attend to");
    assert!(job.queries.len() >= reaches(queries, job.query_stride), "there must be a query for each row of out");
    match &job.context {
        Context::Rows { keys, values, stride } => {
            assert!(keys.len() >= reaches(job.key_count, *stride), "there must be {} keys", job.key_count);
            assert!(values.len() >= reaches(job.key_count, *stride), "there must be {} values", job.key_count);
        }
        Context::Cache(cache) => {
            assert!(cache.fits(heads, head_dim), "the cache must be of {heads} heads of {head_dim} values");
            assert!(cache.length() >= job.key_count, "there must be {} keys", job.key_count);
        }
    }
}

/// An [`Attention`] without its output, checked.
struct Shape<'a> {
    queries: &'a [f32],
    query_stride: usize,
    context: Context<'a>,
    key_count: usize,
    causal_offset: Option<usize>,
    rows: usize,
    heads: usize,
    head_dim: usize,
}

impl<'a> Shape<'a> {
    fn of(job: &Attention<'a>, heads: usize, head_dim: usize) -> Self {
        let rows = job.out.len() / heads.saturating_mul(head_dim);
        check(job, rows, heads, head_dim);
        Self {
            queries: job.queries,
            query_stride: job.query_stride,
            context: job.context,
            key_count: job.key_count,
            causal_offset: job.causal_offset,
            rows,
            heads,
            head_dim,
        }
    }

    /// Whether it is one query over keys that are panels already and values of whole vectors.
    fn is_lone(&self) -> bool {
        self.rows == 1 && self.head_dim.is_multiple_of(LANES) && matches!(self.context, Context::Cache(_))
    }

    /// Keys that a query sees.
    fn seen_by(&self, query: usize) -> usize {
        self.causal_offset.map_or(self.key_count, |offset| self.key_count.min(offset.saturating_add(query + 1)))
    }
}

/// A head's keys as panels of 16: `[panel][dimension][16]`.
enum KeyPanels<'a> {
    /// All of them.
    Ready(&'a [f32]),
    /// Turned a few at a time, in the room that is there for it.
    Turned(Column<'a>, &'a mut [Line]),
}

/// All queries of one job in one head.
struct Head<'a> {
    level: IsaLevel,
    shape: &'a Shape<'a>,
    head: usize,
    out: &'a Disjoint<'a, f32>,
    worker: &'a mut Worker,
}

impl Kernel for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { level, shape, head, out, worker } = self;
        let tiles = shape.rows.div_ceil(level.tile_rows(1));
        let wide = level.tile_panels(shape.rows.div_ceil(tiles), 1);
        let seen = shape.seen_by(shape.rows - 1);
        let (dim, column) = (shape.head_dim, head * shape.head_dim);
        // One tile reads each key and value once, so keys are turned a few at a time and values read where they lie.
        // More tiles share the whole of both in order; rows at a large power of two would crowd few cache sets.
        let lone = tiles == 1;
        let (mut keys, value_rows, ahead) = match shape.context {
            Context::Cache(cache) => {
                let values = Column { from: cache.values(head), stride: dim, dim };
                (KeyPanels::Ready(cache.keys(head)), values, 0)
            }
            Context::Rows { keys, values, stride } => {
                let keys = Column { from: &keys[column..], stride, dim };
                let lines = room(&mut worker.keys, if lone { wide } else { seen.div_ceil(LANES) } * dim);
                let panels = if lone {
                    KeyPanels::Turned(keys, lines)
                } else {
                    for (panel, lines) in lines.chunks_mut(dim).enumerate() {
                        transpose_keys(keys, panel, seen, lines);
                    }
                    KeyPanels::Ready(flat(lines))
                };
                (panels, Column { from: &values[column..], stride, dim }, AHEAD * stride)
            }
        };
        let in_place = lone || matches!(shape.context, Context::Cache(_));
        let values = if in_place && dim.is_multiple_of(LANES) {
            Strided { start: value_rows.from.as_ptr(), step: value_rows.stride, row: LANES, ahead }
        } else {
            let values = room(&mut worker.values, seen * dim.div_ceil(LANES));
            gather_values(value_rows, seen, values);
            Strided { start: values.as_ptr().cast(), step: LANES, row: seen * LANES, ahead: 0 }
        };
        for tile in 0..tiles {
            let first = shape.rows * tile / tiles;
            let rows = shape.rows * (tile + 1) / tiles - first;
            let panels = shape.seen_by(first + rows - 1).div_ceil(LANES);
            let buffer = room(&mut worker.tiles, rows * panels + rows * wide);
            let (scores, sums) = buffer.split_at_mut(rows * panels);
            let tile = QueryTile { shape, column, first, rows, wide, panels };
            tile.score(s, &mut keys, scores);
            let mut inverses = [0.0; MOST_ROWS];
            for (r, scores) in scores.chunks_mut(panels).enumerate() {
                inverses[r] = 1.0 / softmax(s, scores, shape.seen_by(first + r), dim);
            }
            // SAFETY: `values` holds what the job's last query sees, and this unit alone works on this head's columns.
            unsafe { tile.weigh(s, scores, &inverses, values, sums, out) };
        }
    }
}

/// A few queries of one head.
struct QueryTile<'a> {
    shape: &'a Shape<'a>,
    /// The head's first column.
    column: usize,
    first: usize,
    rows: usize,
    /// Panels taken at once.
    wide: usize,
    /// Panels of the keys that the last of the queries sees.
    panels: usize,
}

/// Panels to take next of those that are left. Few sums would wait for each other.
#[inline(always)]
fn at_once(wide: usize, left: usize) -> usize {
    match left {
        1 => 1,
        _ if left >= wide => wide,
        _ if wide > 2 => 2,
        _ => 1,
    }
}

impl QueryTile<'_> {
    /// Products of queries and keys: `scores[query][key]`.
    #[inline(always)]
    fn score<S: Simd>(&self, s: S, keys: &mut KeyPanels<'_>, scores: &mut [Line]) {
        let Self { shape, column, first, rows, panels, .. } = *self;
        let dim = shape.head_dim;
        let queries = Strided {
            start: shape.queries[first * shape.query_stride + column..].as_ptr(),
            step: 1,
            row: shape.query_stride,
            ahead: 0,
        };
        let seen = shape.seen_by(first + rows - 1);
        let mut panel = 0;
        while panel < panels {
            let count = at_once(self.wide, panels - panel);
            let keys = match keys {
                KeyPanels::Ready(all) => &all[panel * dim * LANES..][..count * dim * LANES],
                KeyPanels::Turned(column, lines) => {
                    for (index, lines) in lines[..count * dim].chunks_mut(dim).enumerate() {
                        transpose_keys(*column, panel + index, seen, lines);
                    }
                    flat(&lines[..count * dim])
                }
            };
            let keys = Strided { start: keys.as_ptr(), step: LANES, row: dim * LANES, ahead: 0 };
            let to = &mut scores[panel..];
            // SAFETY: `check` found every query in its slice, and `keys` holds `count` panels of `dim` vectors.
            with_tile_size!(S, rows, count, R, P => unsafe {
                s.call(Products::<R, P>::new(dim, queries, keys, to, panels))
            });
            panel += count;
        }
    }

    /// Sums of values weighed by the scores, times each row's factor, into `out`.
    ///
    /// # Safety
    /// `values` names the head's values for all keys the tile sees, and nobody else works on the head's columns.
    #[inline(always)]
    unsafe fn weigh<S: Simd>(
        &self,
        s: S,
        scores: &[Line],
        factors: &[f32],
        values: Strided,
        sums: &mut [Line],
        out: &Disjoint<'_, f32>,
    ) {
        let Self { shape, column, first, rows, panels, .. } = *self;
        let dim = shape.head_dim;
        let seen = shape.seen_by(first + rows - 1);
        let weights = Strided { start: scores.as_ptr().cast(), step: 1, row: panels * LANES, ahead: 0 };
        let mut panel = 0;
        while panel * LANES < dim {
            let count = at_once(self.wide, dim.div_ceil(LANES) - panel);
            // SAFETY: inside the values, one panel on for every `row`.
            let values = Strided { start: unsafe { values.start.add(panel * values.row) }, ..values };
            // SAFETY: scores hold `panels * 16 >= seen` values a row, and the caller promises the values.
            with_tile_size!(S, rows, count, R, P => unsafe {
                s.call(Products::<R, P>::new(seen, weights, values, sums, count))
            });
            for (index, line) in sums[..rows * count].iter().enumerate() {
                let (r, lane) = (index / count, (panel + index % count) * LANES);
                let at = (first + r) * shape.heads * dim + column + lane;
                // SAFETY: by the caller's promise.
                let to = unsafe { out.part(at, LANES.min(dim - lane)) };
                store_part(s, s.mul(s.load(&line.0), s.splat(factors[r])), to);
            }
            panel += count;
        }
    }
}

/// Rows of the tallest tile of any implementation.
const MOST_ROWS: usize = 8;

/// Products of a tile of strided rows and panels, into `to[r * to_row + p]`.
struct Products<'a, const R: usize, const P: usize> {
    steps: usize,
    x: Strided,
    w: Strided,
    to: &'a mut [Line],
    to_row: usize,
}

impl<'a, const R: usize, const P: usize> Products<'a, R, P> {
    /// # Safety
    /// As for [`sum_products`].
    unsafe fn new(steps: usize, x: Strided, w: Strided, to: &'a mut [Line], to_row: usize) -> Self {
        Self { steps, x, w, to, to_row }
    }
}

impl<const R: usize, const P: usize> Kernel for Products<'_, R, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: promised where this value was made.
        let sums = unsafe { sum_products::<S, R, P>(s, self.steps, self.x, self.w) };
        // By index: an iterator would take the sums through memory.
        #[allow(clippy::needless_range_loop)]
        for r in 0..R {
            for p in 0..P {
                s.store(sums[r][p], &mut self.to[r * self.to_row + p].0);
            }
        }
    }
}

/// Replaces scores by `e^((score - largest) / sqrt(dim))`, those past `seen` by 0, and returns their sum.
///
/// Lanes are summed apart, so zeros at the end change no bit of it.
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [Line], seen: usize, dim: usize) -> f32 {
    let largest = largest_seen(s, scores, seen);
    let scale = s.splat(std::f32::consts::LOG2_E / (dim as f32).sqrt());
    let mut sum = s.splat(0.0);
    for line in scores {
        let value = exp2_falling(s, s.mul(s.sub(s.load(&line.0), largest), scale));
        sum = s.add(sum, value);
        s.store(value, &mut line.0);
    }
    s.sum_lanes(sum)
}

/// The largest score in every lane; those past `seen` become minus infinity.
#[inline(always)]
fn largest_seen<S: Simd>(s: S, scores: &mut [Line], seen: usize) -> S::F {
    flat_mut(scores)[seen..].fill(f32::NEG_INFINITY);
    let mut largest = s.splat(f32::NEG_INFINITY);
    for line in scores {
        largest = s.max(s.load(&line.0), largest);
    }
    s.splat(s.max_lanes(largest))
}
