//! An estimate of the size of the next object, from the sizes of recent ones.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The minimum estimate: most pictures on the web are smaller.
const MIN: u64 = 1 << 20;
/// Consecutive objects of less than half the estimate after which it is halved.
const SMALLER: u32 = 64;

/// A size that most objects do not exceed. It rises at once and falls slowly.
#[derive(Debug)]
pub(super) struct SizeEstimate {
    bytes: AtomicU64,
    smaller: AtomicU32,
    most: u64,
}

impl SizeEstimate {
    /// An estimate for objects of at most `most` bytes.
    pub(super) fn new(most: u64) -> Self {
        Self { bytes: AtomicU64::new(MIN.min(most)), smaller: AtomicU32::new(0), most }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Adjusts the estimate by the size of an object. Concurrent updates may be lost, which an estimate can tolerate.
    pub(super) fn record(&self, size: u64) {
        let estimate = self.bytes();
        if size > estimate / 2 {
            self.smaller.store(0, Ordering::Relaxed);
            let grown = size.checked_next_power_of_two().unwrap_or(size).clamp(MIN.min(self.most), self.most);
            self.bytes.fetch_max(grown, Ordering::Relaxed);
        } else if self.smaller.fetch_add(1, Ordering::Relaxed) + 1 >= SMALLER {
            self.smaller.store(0, Ordering::Relaxed);
            self.bytes.store((estimate / 2).max(MIN.min(self.most)), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_large_object_raises_the_guess_at_once() {
        let estimate = SizeEstimate::new(64 * MIB);
        estimate.record(5 * MIB);
        assert_eq!(estimate.bytes(), 8 * MIB);
        estimate.record(60 * MIB);
        assert_eq!(estimate.bytes(), 64 * MIB);
    }

    #[test]
    fn small_objects_lower_it_slowly_and_not_below_the_least() {
        let estimate = SizeEstimate::new(64 * MIB);
        estimate.record(3 * MIB);
        (0..SMALLER - 1).for_each(|_| estimate.record(1000));
        assert_eq!(estimate.bytes(), 4 * MIB);
        estimate.record(3 * MIB);
        (0..SMALLER).for_each(|_| estimate.record(1000));
        assert_eq!(estimate.bytes(), 2 * MIB);
        (0..10 * SMALLER).for_each(|_| estimate.record(1000));
        assert_eq!(estimate.bytes(), MIN);
    }

    #[test]
    fn it_is_never_more_than_an_object_may_have() {
        let estimate = SizeEstimate::new(1000);
        assert_eq!(estimate.bytes(), 1000);
        estimate.record(900);
        assert_eq!(estimate.bytes(), 1000);
    }
}
