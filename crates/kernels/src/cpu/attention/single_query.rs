//! Attention of a single query over a cache, as in a decoding step: a few heads at once.

use super::shape::{Context, Shape};
use super::softmax::softmax;
use crate::cpu::aligned::as_f32s;
use crate::cpu::element::Element;
use crate::cpu::key_value_cache::{Heads, Stored};
use crate::cpu::math::store_partial;
use crate::cpu::parallel::Disjoint;
use crate::cpu::scratch::{ThreadScratch, grow_to};
use crate::cpu::simd::{Kernel, LANES, Simd};

/// Heads computed at once, and panels of each: together as many independent accumulators as it takes to hide the
/// latency of a multiply-add.
pub(super) const HEADS: usize = 4;
pub(super) const PANELS: usize = 2;

/// One query in [`HEADS`] heads. Each sum is the same sequence of operations as in [`Head`](super::tiled::Head).
pub(super) struct SingleQuery<'a> {
    pub(super) shape: &'a Shape<'a>,
    /// The first of the heads.
    pub(super) head: usize,
    pub(super) out: &'a Disjoint<'a, f32>,
    pub(super) thread: &'a mut ThreadScratch,
}

impl Kernel for SingleQuery<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Context::Cache(cache) = self.shape.context else {
            unreachable!("the keys of a single query are in a cache")
        };
        match cache.stored() {
            Stored::F32(cache) => self.over(s, cache),
            Stored::Bf16(cache) => self.over(s, cache),
        }
    }
}

impl SingleQuery<'_> {
    #[inline(always)]
    fn over<S: Simd, E: Element>(self, s: S, cache: &Heads<E>) {
        let Self { shape, head, out, thread } = self;
        let (dim, visible) = (shape.head_dim, shape.visible_keys(0));
        let panels = visible.div_ceil(LANES);
        let scores = grow_to(&mut thread.accumulators, HEADS * panels);
        let queries: [&[f32]; HEADS] = std::array::from_fn(|h| &shape.queries[(head + h) * dim..][..dim]);
        let keys: [&[E]; HEADS] = std::array::from_fn(|h| &cache.keys(head + h)[..panels * dim * LANES]);
        let starts = queries.map(<[f32]>::as_ptr);
        let mut panel = 0;
        while panel < panels {
            let keys = keys.map(|keys| keys[panel * dim * LANES..].as_ptr());
            let to = &mut scores[panel..];
            if panels - panel >= PANELS {
                // SAFETY: queries hold `dim` values, and two panels of keys are left in every head.
                let sums = unsafe { dot_products::<S, E, PANELS>(s, dim, starts, keys, (LANES, dim * LANES)) };
                for h in 0..HEADS {
                    (0..PANELS).for_each(|p| s.store(sums[h][p], &mut to[h * panels + p].0));
                }
                panel += PANELS;
            } else {
                // SAFETY: as above, with one panel.
                let sums = unsafe { dot_products::<S, E, 1>(s, dim, starts, keys, (LANES, 0)) };
                (0..HEADS).for_each(|h| s.store(sums[h][0], &mut to[h * panels].0));
                panel += 1;
            }
        }
        let mut inverses = [0.0; HEADS];
        for (inverse, scores) in inverses.iter_mut().zip(scores.chunks_mut(panels)) {
            *inverse = 1.0 / softmax(s, scores, visible, dim);
        }
        let weights: [&[f32]; HEADS] = std::array::from_fn(|h| as_f32s(&scores[h * panels..][..panels]));
        let starts = weights.map(<[f32]>::as_ptr);
        let values: [&[E]; HEADS] = std::array::from_fn(|h| &cache.values(head + h)[..visible * dim]);
        let write = |h: usize, panel: usize, sum: S::F| {
            // SAFETY: no other unit writes these heads' columns.
            let to = unsafe { out.part((head + h) * dim + panel * LANES, LANES) };
            store_partial(s, s.mul(sum, s.splat(inverses[h])), to);
        };
        let mut panel = 0;
        while panel * LANES < dim {
            let values = values.map(|values| values[panel * LANES..].as_ptr());
            if dim / LANES - panel >= PANELS {
                // SAFETY: there are `visible` weights and rows of `dim` values, with two vectors left in every row.
                let sums = unsafe { dot_products::<S, E, PANELS>(s, visible, starts, values, (dim, LANES)) };
                (0..HEADS).for_each(|h| (0..PANELS).for_each(|p| write(h, panel + p, sums[h][p])));
                panel += PANELS;
            } else {
                // SAFETY: as above, with one vector.
                let sums = unsafe { dot_products::<S, E, 1>(s, visible, starts, values, (dim, 0)) };
                (0..HEADS).for_each(|h| write(h, panel, sums[h][0]));
                panel += 1;
            }
        }
    }
}

/// For each head `h`, the [`sum_products`](crate::cpu::microkernel::sum_products) of the row `x[h]` and `P` panels of
/// `w[h]`, in which steps are `step` values apart and panels `row` values.
///
/// # Safety
/// Each `x` has `steps` readable values, and each `w` a readable vector at every step of every panel.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "an iterator would keep the accumulators in memory")]
unsafe fn dot_products<S: Simd, E: Element, const P: usize>(
    s: S,
    steps: usize,
    x: [*const f32; HEADS],
    w: [*const E; HEADS],
    (step, row): (usize, usize),
) -> [[S::F; P]; HEADS] {
    let mut sums = [[s.splat(0.0); P]; HEADS];
    for index in 0..steps {
        for h in 0..HEADS {
            // SAFETY: guaranteed by the caller.
            let factor = s.splat(unsafe { *x[h].add(index) });
            for p in 0..P {
                // SAFETY: guaranteed by the caller.
                let operand = E::load(s, unsafe { &*w[h].add(index * step + p * row).cast::<[E; LANES]>() });
                sums[h][p] = s.fma(factor, operand, sums[h][p]);
            }
        }
    }
    sums
}
