//! Scaled dot-product attention: the calls, and how their work is divided into units of one or a few heads.

mod panels;
mod quantized;
mod shape;
mod single_query;
mod softmax;
mod tiled;

use super::dispatch::level;
use super::parallel::{Disjoint, for_units};
use super::scratch::Scratch;
use quantized::{MAX_KEYS, QuantizedHead};
use shape::Shape;
use single_query::{HEADS, PANELS, SingleQuery};
use tiled::Head;

pub use shape::{Attention, Context};

/// `out = softmax(queries keys^T / sqrt(head_dim)) values` for each job and head, in parallel over both.
///
/// # Panics
/// If a job's slices are too short for its counts and strides, its cache has other heads, or it has queries but no
/// keys.
pub fn attention(jobs: &mut [Attention<'_>], heads: usize, head_dim: usize, scratch: &mut Scratch) {
    assert!(heads > 0 && head_dim > 0, "attention must have heads of some width");
    let width = heads.saturating_mul(head_dim);
    let mut work = 0;
    let mut targets = Vec::with_capacity(jobs.len());
    for job in jobs {
        let shape = Shape::of(job, heads, head_dim);
        if shape.rows > 0 {
            work += 2 * shape.rows * shape.visible_keys(shape.rows - 1) * width;
            targets.push((shape, Disjoint::new(job.out)));
        }
    }
    let level = level();
    let mut units = Vec::with_capacity(targets.len() * heads);
    for (job, (shape, _)) in targets.iter().enumerate() {
        let head_groups =
            if level.tile_rows(1) >= HEADS * PANELS && shape.is_single_cached_query() { heads / HEADS } else { 0 };
        units.extend((0..head_groups).map(|group| (job, group * HEADS, HEADS)));
        units.extend((head_groups * HEADS..heads).map(|head| (job, head, 1)));
    }
    let threads = scratch.threads_for(work, units.len());
    for_units(units.len(), scratch.threads(threads), |unit, thread| {
        let (job, head, count) = units[unit];
        let (shape, out) = &targets[job];
        if count == HEADS {
            level.run(SingleQuery { shape, head, out, thread });
        } else {
            level.run(Head { level, shape, head, out, thread });
        }
    });
}

/// [`attention`] of queries that see all of their keys, with products of 16-bit integers: about twice as fast for many
/// queries, with an error of about 3e-4. Integers are too coarse for more than 4096 keys, which are passed to
/// [`attention`].
///
/// # Panics
/// Like [`attention`], and if the keys are in a cache or `causal_offset` is set.
pub fn attention_i16(job: Attention<'_>, heads: usize, head_dim: usize, scratch: &mut Scratch) {
    assert!(heads > 0 && head_dim > 0, "attention must have heads of some width");
    let shape = Shape::of(&job, heads, head_dim);
    assert!(matches!(job.context, Context::Rows { .. }), "keys and values must be rows");
    assert!(job.causal_offset.is_none(), "every query must see all keys");
    if job.key_count > MAX_KEYS {
        return attention(&mut [job], heads, head_dim, scratch);
    }
    if shape.rows == 0 {
        return;
    }
    let (level, out) = (level(), Disjoint::new(job.out));
    let threads = scratch.threads_for(shape.rows * shape.key_count * heads * head_dim, heads);
    for_units(heads, scratch.threads(threads), |head, thread| {
        level.run_integers(QuantizedHead { level, shape: &shape, head, out: &out, thread });
    });
}
