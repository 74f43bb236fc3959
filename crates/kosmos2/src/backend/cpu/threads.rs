//! How the rows of a pass are divided among threads.

use kernels::cpu::Scratch;
use rayon::prelude::*;

/// A layer whose weights have at most this many bytes stays in the caches, so that every thread may read all of them.
const SMALL_LAYER: usize = 4 << 20;

/// Maximum rows that go through consecutive small linear maps: their intermediate values stay in a second-level cache.
const BLOCK_ROWS: usize = 132;

/// Minimum rows for a thread.
const MIN_ROWS: usize = 4;

/// The threads of a pass and their scratch memory.
///
/// In a model with small layers, each thread takes some of the rows through several linear maps in sequence, since a
/// single map finishes sooner than a thread wakes up. Larger layers process all rows, and the threads share each map,
/// so that every weight is read once.
#[derive(Default)]
pub(super) struct PassThreads {
    shared: Scratch,
    per_thread: Vec<Scratch>,
    is_single: bool,
}

impl PassThreads {
    /// Only the calling thread, for passes that run in parallel themselves.
    fn single() -> Self {
        Self { shared: Scratch::for_one_thread(), per_thread: Vec::new(), is_single: true }
    }

    /// Number of rows in each part, for `rows` rows and layers of `layer_bytes` bytes.
    pub(super) fn rows_per_part(&self, rows: usize, layer_bytes: usize) -> usize {
        let is_divided = !self.is_single && is_small(layer_bytes);
        let parts = if is_divided { (rows / MIN_ROWS).min(rayon::current_num_threads()) } else { 1 };
        rows.div_ceil(parts.max(1)).max(1)
    }

    /// Does the work on each part: several parts on one thread each, a single part on all threads.
    pub(super) fn share<P: Send>(&mut self, parts: impl Iterator<Item = P>, work: impl Fn(P, &mut Scratch) + Sync) {
        let mut parts: Vec<P> = parts.collect();
        if parts.len() == 1 {
            parts.into_iter().for_each(|part| work(part, &mut self.shared));
            return;
        }
        if self.per_thread.len() < parts.len() {
            self.per_thread.resize_with(parts.len(), Scratch::for_one_thread);
        }
        parts.par_drain(..).zip(&mut self.per_thread).with_max_len(1).for_each(|(part, scratch)| work(part, scratch));
    }

    /// Scratch memory for kernels that use all threads.
    pub(super) fn shared_scratch(&mut self) -> &mut Scratch {
        &mut self.shared
    }
}

/// Number of rows of a part that go through consecutive linear maps together.
pub(super) fn block_rows(rows: usize, layer_bytes: usize) -> usize {
    let blocks = if is_small(layer_bytes) { rows.div_ceil(BLOCK_ROWS) } else { 1 };
    rows.div_ceil(blocks.max(1)).max(1)
}

/// Whether every thread may read all weights of layers of this size.
pub(super) fn is_small(layer_bytes: usize) -> bool {
    layer_bytes <= SMALL_LAYER
}

/// Runs whole passes in parallel, each on one thread with memory of its own, so that no thread waits within a pass.
pub(super) struct ParallelPasses<M> {
    per_thread: Vec<(PassThreads, M)>,
}

impl<M> Default for ParallelPasses<M> {
    fn default() -> Self {
        Self { per_thread: Vec::new() }
    }
}

impl<M: Default + Send> ParallelPasses<M> {
    /// Does the work on each item, on one thread each, and returns the results in the items' order.
    pub(super) fn run<P: Send, R: Send>(
        &mut self,
        items: Vec<P>,
        work: impl Fn(P, &mut PassThreads, &mut M) -> R + Sync,
    ) -> Vec<R> {
        let threads = rayon::current_num_threads().min(items.len());
        if self.per_thread.len() < threads {
            self.per_thread.resize_with(threads, || (PassThreads::single(), M::default()));
        }
        let count = items.len();
        let queue = std::sync::Mutex::new(items.into_iter().enumerate());
        // Items are taken one at a time, so that a preempted thread delays only one of them.
        let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
        let workers = self.per_thread[..threads].par_iter_mut().with_max_len(1);
        let results = workers.map(|(threads, memory)| {
            std::iter::from_fn(next).map(|(index, item)| (index, work(item, threads, memory))).collect::<Vec<_>>()
        });
        let mut results: Vec<(usize, R)> = results.flatten_iter().collect();
        debug_assert_eq!(results.len(), count);
        results.sort_unstable_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, result)| result).collect()
    }
}
