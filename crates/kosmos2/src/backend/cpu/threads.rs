//! Who computes which rows of a pass.

use kernels::cpu::Scratch;
use rayon::prelude::*;

/// Weights of a layer up to this many bytes stay in the caches, so that every thread may read all of them.
const SMALL_LAYER: usize = 4 << 20;

/// Most rows that go through a run of small maps on end: what is between the maps stays in a second-level cache.
const BLOCK_ROWS: usize = 132;

/// Fewest rows worth a thread.
const FEWEST_ROWS: usize = 4;

/// The threads of a pass.
///
/// In a model with small layers each takes some of the rows through several maps on end, since a map by itself is
/// finished sooner than a thread wakes up. Larger layers go over all rows, and the threads share each map: then every
/// weight is read once.
#[derive(Default)]
pub(super) struct PerThread {
    all: Scratch,
    each: Vec<Scratch>,
    alone: bool,
}

impl PerThread {
    /// The thread that calls and no other, for passes that are themselves shared out.
    fn of_one() -> Self {
        Self { all: Scratch::for_one_thread(), each: Vec::new(), alone: true }
    }

    /// Rows of a part, out of so many, for layers of so many bytes of weights.
    pub(super) fn rows_each(&self, rows: usize, layer_bytes: usize) -> usize {
        let many = !self.alone && is_small(layer_bytes);
        let parts = if many { (rows / FEWEST_ROWS).min(rayon::current_num_threads()) } else { 1 };
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

/// Rows, out of so many of a part, that go through a run of maps on end.
pub(super) fn block_of(rows: usize, layer_bytes: usize) -> usize {
    let blocks = if is_small(layer_bytes) { rows.div_ceil(BLOCK_ROWS) } else { 1 };
    rows.div_ceil(blocks.max(1)).max(1)
}

/// Whether layers of so many bytes of weights may be read by every thread.
pub(super) fn is_small(layer_bytes: usize) -> bool {
    layer_bytes <= SMALL_LAYER
}

/// PerThreads of one thread each, with memory of its own, for passes side by side: nobody waits before a pass is done.
pub(super) struct SingleThread<M> {
    each: Vec<(PerThread, M)>,
}

impl<M> Default for SingleThread<M> {
    fn default() -> Self {
        Self { each: Vec::new() }
    }
}

impl<M: Default + Send> SingleThread<M> {
    /// Does the work on each item, one thread an item, and gives what comes of them in their order.
    pub(super) fn share<P: Send, R: Send>(
        &mut self,
        items: Vec<P>,
        work: impl Fn(P, &mut PerThread, &mut M) -> R + Sync,
    ) -> Vec<R> {
        let threads = rayon::current_num_threads().min(items.len());
        if self.each.len() < threads {
            self.each.resize_with(threads, || (PerThread::of_one(), M::default()));
        }
        let count = items.len();
        let queue = std::sync::Mutex::new(items.into_iter().enumerate());
        // Taken one by one: a thread that loses its core to another program holds up one item only.
        let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
        let each = self.each[..threads].par_iter_mut().with_max_len(1);
        let done = each.map(|(threads, memory)| {
            std::iter::from_fn(next).map(|(index, item)| (index, work(item, threads, memory))).collect::<Vec<_>>()
        });
        let mut done: Vec<(usize, R)> = done.flatten_iter().collect();
        debug_assert_eq!(done.len(), count);
        done.sort_unstable_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, result)| result).collect()
    }
}
