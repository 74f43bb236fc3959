//! Units of one call's work, taken by as many threads as are free.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// Multiply-adds (or elements' worth of them) below which waking a second thread costs more than it saves.
const ALONE: usize = 1 << 21;

/// Threads worth using for so much work in so many units.
pub(crate) fn threads_for(work: usize, units: usize) -> usize {
    if work < ALONE { 1 } else { rayon::current_num_threads().min(units).max(1) }
}

/// Calls `run` with every unit once, with one worker for each thread that takes part.
///
/// Units are handed out one by one, so a thread that loses its core to another program holds up one unit only.
pub(crate) fn for_units<W: Send>(units: usize, workers: &mut [W], run: impl Fn(usize, &mut W) + Sync) {
    if let [worker] = workers {
        (0..units).for_each(|unit| run(unit, worker));
        return;
    }
    let next = AtomicUsize::new(0);
    workers.par_iter_mut().with_max_len(1).for_each(|worker| {
        loop {
            let unit = next.fetch_add(1, Ordering::Relaxed);
            if unit >= units {
                break;
            }
            run(unit, worker);
        }
    });
}

/// A slice whose parts several threads write at once.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    of: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes only through `part`, whose caller promises that no two parts in use overlap.
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
    /// No other part that overlaps it is in use at the same time.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part must lie inside its slice");
        // SAFETY: inside the slice borrowed for this value's life, and by the caller's promise in use only once.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
