//! Attention of one query, as every sequence's newest token has one: a few heads at once.

use super::{Context, Shape, softmax};
use crate::cpu::activations::{Worker, room};
use crate::cpu::math::store_part;
use crate::cpu::parallel::Disjoint;
use crate::cpu::simd::{Kernel, LANES, Simd};
use crate::cpu::tile::flat;

/// Heads of a lone query taken together, and panels of each: as many sums that do not wait for each other as a
/// processor needs to keep its units busy.
pub(super) const TOGETHER: usize = 4;
pub(super) const LONE_PANELS: usize = 2;

/// One query in a few heads. Each sum is the same chain of operations as in [`Head`](super::Head).
pub(super) struct LoneQuery<'a> {
    pub(super) shape: &'a Shape<'a>,
    /// The first of the heads.
    pub(super) head: usize,
    pub(super) out: &'a Disjoint<'a, f32>,
    pub(super) worker: &'a mut Worker,
}

impl Kernel for LoneQuery<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { shape, head, out, worker } = self;
        let Context::Cache(cache) = shape.context else { unreachable!("a lone query's keys lie in a cache") };
        let (dim, seen) = (shape.head_dim, shape.seen_by(0));
        let panels = seen.div_ceil(LANES);
        let scores = room(&mut worker.tiles, TOGETHER * panels);
        let queries: [&[f32]; TOGETHER] = std::array::from_fn(|h| &shape.queries[(head + h) * dim..][..dim]);
        let keys: [&[f32]; TOGETHER] = std::array::from_fn(|h| &cache.keys(head + h)[..panels * dim * LANES]);
        let starts = queries.map(<[f32]>::as_ptr);
        let mut panel = 0;
        while panel < panels {
            let keys = keys.map(|keys| keys[panel * dim * LANES..].as_ptr());
            let to = &mut scores[panel..];
            if panels - panel >= LONE_PANELS {
                // SAFETY: queries hold `dim` values, and two panels of keys are left in every head.
                let sums = unsafe { side_by_side::<S, LONE_PANELS>(s, dim, starts, keys, (LANES, dim * LANES)) };
                for h in 0..TOGETHER {
                    (0..LONE_PANELS).for_each(|p| s.store(sums[h][p], &mut to[h * panels + p].0));
                }
                panel += LONE_PANELS;
            } else {
                // SAFETY: as above, of one panel.
                let sums = unsafe { side_by_side::<S, 1>(s, dim, starts, keys, (LANES, 0)) };
                (0..TOGETHER).for_each(|h| s.store(sums[h][0], &mut to[h * panels].0));
                panel += 1;
            }
        }
        let mut inverses = [0.0; TOGETHER];
        for (inverse, scores) in inverses.iter_mut().zip(scores.chunks_mut(panels)) {
            *inverse = 1.0 / softmax(s, scores, seen, dim);
        }
        let weights: [&[f32]; TOGETHER] = std::array::from_fn(|h| flat(&scores[h * panels..][..panels]));
        let starts = weights.map(<[f32]>::as_ptr);
        let values: [&[f32]; TOGETHER] = std::array::from_fn(|h| &cache.values(head + h)[..seen * dim]);
        let write = |h: usize, panel: usize, sum: S::F| {
            // SAFETY: this unit alone works on these heads' columns.
            let to = unsafe { out.part((head + h) * dim + panel * LANES, LANES) };
            store_part(s, s.mul(sum, s.splat(inverses[h])), to);
        };
        let mut panel = 0;
        while panel * LANES < dim {
            let values = values.map(|values| values[panel * LANES..].as_ptr());
            if dim / LANES - panel >= LONE_PANELS {
                // SAFETY: there are `seen` weights and rows of `dim` values, with two vectors left in every row.
                let sums = unsafe { side_by_side::<S, LONE_PANELS>(s, seen, starts, values, (dim, LANES)) };
                (0..TOGETHER).for_each(|h| (0..LONE_PANELS).for_each(|p| write(h, panel + p, sums[h][p])));
                panel += LONE_PANELS;
            } else {
                // SAFETY: as above, of one vector.
                let sums = unsafe { side_by_side::<S, 1>(s, seen, starts, values, (dim, 0)) };
                (0..TOGETHER).for_each(|h| write(h, panel, sums[h][0]));
                panel += 1;
            }
        }
    }
}

/// [`sum_products`](crate::cpu::tile::sum_products) of one row of each of a few `x` with `P` panels of its own `w`, which go `step` floats from one step
/// to the next and `row` from one panel to the next.
///
/// # Safety
/// `steps` values lie behind every `x`, and vectors wherever the strides lead behind every `w`.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "an iterator would take the sums through memory")]
unsafe fn side_by_side<S: Simd, const P: usize>(
    s: S,
    steps: usize,
    x: [*const f32; TOGETHER],
    w: [*const f32; TOGETHER],
    (step, row): (usize, usize),
) -> [[S::F; P]; TOGETHER] {
    let mut sums = [[s.splat(0.0); P]; TOGETHER];
    for index in 0..steps {
        for h in 0..TOGETHER {
            // SAFETY: by the caller's promise.
            let factor = s.splat(unsafe { *x[h].add(index) });
            for p in 0..P {
                // SAFETY: by the caller's promise.
                let operand = s.load(unsafe { &*w[h].add(index * step + p * row).cast::<[f32; LANES]>() });
                sums[h][p] = s.fma(factor, operand, sums[h][p]);
            }
        }
    }
    sums
}
