//! Who computes which rows of a pass.

use kernels::cpu::Scratch;
use rayon::prelude::*;

/// Weights of a layer up to this many bytes stay in the caches, so that every thread may read all of them.
const SMALL_LAYER: usize = 4 << 20;

/// Fewest rows worth a thread.
const FEWEST_ROWS: usize = 4;

/// The threads of a pass.
///
/// In a model with small layers each takes some of the rows through several maps on end, since a map by itself is
/// finished sooner than a thread wakes up. Larger layers go over all rows, and the threads share each map: then every
/// weight is read once.
#[derive(Default)]
pub(super) struct Crew {
    all: Scratch,
    each: Vec<Scratch>,
}

impl Crew {
    /// Rows of a part, out of so many, for layers of so many bytes of weights.
    pub(super) fn rows_each(rows: usize, layer_bytes: usize) -> usize {
        let parts = if layer_bytes > SMALL_LAYER { 1 } else { (rows / FEWEST_ROWS).min(rayon::current_num_threads()) };
        rows.div_ceil(parts.max(1)).max(1)
    }

    /// Does the work on each part: on one thread if there are several parts, on all threads if there is one.
    pub(super) fn share<P: Send>(&mut self, parts: impl Iterator<Item = P>, work: impl Fn(P, &mut Scratch) + Sync) {
        let mut parts: Vec<P> = parts.collect();
        if parts.len() == 1 {
            parts.into_iter().for_each(|part| work(part, &mut self.all));
            return;
        }
        if self.each.len() < parts.len() {
            self.each.resize_with(parts.len(), Scratch::for_one_thread);
        }
        parts.par_drain(..).zip(&mut self.each).with_max_len(1).for_each(|(part, scratch)| work(part, scratch));
    }

    /// The scratch memory of calls that all threads share.
    pub(super) fn together(&mut self) -> &mut Scratch {
        &mut self.all
    }
}
