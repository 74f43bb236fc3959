//! How large objects have been of late, as a guess at the next one.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The least that is guessed: most pictures of the web are smaller.
const LEAST: u64 = 1 << 20;
/// Objects of less than half the guess, one behind the other, after which it is halved.
const PATIENCE: u32 = 64;

/// A size that most objects stay within: up at once, down slowly.
#[derive(Debug)]
pub(super) struct SizeEstimate {
    bytes: AtomicU64,
    smaller: AtomicU32,
    most: u64,
}

impl SizeEstimate {
    /// Where no object is larger than `most`.
    pub(super) fn new(most: u64) -> Self {
        Self { bytes: AtomicU64::new(LEAST.min(most)), smaller: AtomicU32::new(0), most }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// An object of this size came. Others may come meanwhile: a guess needs no better order.
    pub(super) fn saw(&self, size: u64) {
        let guess = self.bytes();
        if size > guess / 2 {
            self.smaller.store(0, Ordering::Relaxed);
            let grown = size.checked_next_power_of_two().unwrap_or(size).clamp(LEAST.min(self.most), self.most);
            self.bytes.fetch_max(grown, Ordering::Relaxed);
        } else if self.smaller.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE {
            self.smaller.store(0, Ordering::Relaxed);
            self.bytes.store((guess / 2).max(LEAST.min(self.most)), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_large_object_raises_the_guess_at_once() {
        let usual = SizeEstimate::new(64 * MIB);
        usual.saw(5 * MIB);
        assert_eq!(usual.bytes(), 8 * MIB);
        usual.saw(60 * MIB);
        assert_eq!(usual.bytes(), 64 * MIB);
    }

    #[test]
    fn small_objects_lower_it_slowly_and_not_below_the_least() {
        let usual = SizeEstimate::new(64 * MIB);
        usual.saw(3 * MIB);
        (0..PATIENCE - 1).for_each(|_| usual.saw(1000));
        assert_eq!(usual.bytes(), 4 * MIB);
        usual.saw(3 * MIB);
        (0..PATIENCE).for_each(|_| usual.saw(1000));
        assert_eq!(usual.bytes(), 2 * MIB);
        (0..10 * PATIENCE).for_each(|_| usual.saw(1000));
        assert_eq!(usual.bytes(), LEAST);
    }

    #[test]
    fn it_is_never_more_than_an_object_may_have() {
        let usual = SizeEstimate::new(1000);
        assert_eq!(usual.bytes(), 1000);
        usual.saw(900);
        assert_eq!(usual.bytes(), 1000);
    }
}
