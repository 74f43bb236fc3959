//! Parallel execution of the units of work of one call.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// Multiply-adds below which waking a second thread costs more than it saves.
const MIN_PARALLEL_WORK: usize = 1 << 21;

/// How many threads are worth using for `work` multiply-adds in `units` units.
pub(crate) fn threads_for(work: usize, units: usize) -> usize {
    if work < MIN_PARALLEL_WORK { 1 } else { rayon::current_num_threads().min(units).max(1) }
}

/// Calls `run` once with every unit, on as many threads as there are states; each thread has its own state.
///
/// Units are handed out one by one, so that a thread that is preempted by another program delays one unit only.
pub(crate) fn for_units<T: Send>(units: usize, states: &mut [T], run: impl Fn(usize, &mut T) + Sync) {
    if let [state] = states {
        (0..units).for_each(|unit| run(unit, state));
        return;
    }
    let next = AtomicUsize::new(0);
    states.par_iter_mut().with_max_len(1).for_each(|state| {
        loop {
            let unit = next.fetch_add(1, Ordering::Relaxed);
            if unit >= units {
                break;
            }
            run(unit, state);
        }
    });
}

/// A slice whose parts are written by several threads at once.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    of: PhantomData<&'a mut [T]>,
}

// SAFETY: all access is through `part`, whose caller guarantees that no two parts in use overlap.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), of: PhantomData }
    }

    /// The part of `len` elements from `start`.
    ///
    /// # Safety
    /// No overlapping part is in use at the same time.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part must be within its slice");
        // SAFETY: within the slice, which is borrowed for `'a`; the caller guarantees exclusive access.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
