//! Exponential backoff, for everything that is retried.

use std::time::Duration;

/// A first delay that doubles with each failure, up to a maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failure.
    pub first: Duration,
    /// The longest delay.
    pub longest: Duration,
}

impl Backoff {
    /// A backoff with these delays.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// A backoff with delays in seconds.
    pub const fn seconds(first: u64, longest: u64) -> Self {
        Self::new(Duration::from_secs(first), Duration::from_secs(longest))
    }

    /// The delay after this many failures, counted from 1.
    pub fn delay(&self, failures: u64) -> Duration {
        let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let delay = 2u32.checked_pow(doublings).and_then(|factor| self.first.checked_mul(factor));
        delay.unwrap_or(self.longest).min(self.longest)
    }
}

/// A backoff that counts its failures.
#[derive(Debug, Clone)]
pub struct Delays {
    backoff: Backoff,
    failures: u64,
}

impl Delays {
    /// A backoff without failures.
    pub fn of(backoff: Backoff) -> Self {
        Self { backoff, failures: 0 }
    }

    /// The delay after one more failure.
    pub fn after_failure(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.backoff.delay(self.failures)
    }

    /// Resets the count after a success: the next failure counts as the first.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let backoff = Backoff::seconds(2, 300);
        let delays: Vec<u64> = (1..=9).map(|failures| backoff.delay(failures).as_secs()).collect();
        assert_eq!(delays, [2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(backoff.delay(4_000_000_000), Duration::from_secs(300));
        assert_eq!(backoff.delay(0), Duration::from_secs(2));
        let mut delays = Delays::of(backoff);
        assert_eq!((delays.after_failure().as_secs(), delays.after_failure().as_secs()), (2, 4));
        delays.reset();
        assert_eq!(delays.after_failure().as_secs(), 2);
    }
}
