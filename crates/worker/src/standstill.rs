//! Whether this process stood still, so that a job that it has in hand may have been finished by others long ago.
//!
//! Once a job's end is confirmed, its outcome is kept for `streams.duplicate_window` only. A worker that writes an outcome
//! later than that would not learn that there was one. What it knows of time is not enough for that: it can be suspended
//! with its timers, and a job can wait in the socket's buffer meanwhile. So whoever comes late writes the outcome and
//! leaves its publication to the next delivery of the job, which does not come if the job is finished.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often it looks at the clocks.
const TICK: Duration = Duration::from_secs(1);
/// After a standstill, how long jobs can come that were sent before it.
const BUFFERED: Duration = Duration::from_secs(30);

/// Looks at the clocks. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Standstill(Arc<Clocks>);

#[derive(Debug)]
struct Clocks {
    lease: Duration,
    longest_gap: Duration,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// By the clock of this process, which may stand still with the machine, and by that of the wall.
    last: (Instant, SystemTime),
    /// When it ran again after the last standstill.
    woke: Option<Instant>,
}

impl Standstill {
    /// For jobs that are in hand for at most `lease`. Gaps of up to `longest_gap` are not a standstill.
    pub(crate) fn new(lease: Duration, longest_gap: Duration) -> Self {
        let seen = Mutex::new(Seen { last: (Instant::now(), SystemTime::now()), woke: None });
        Self(Arc::new(Clocks { lease, longest_gap, seen }))
    }

    /// Looks at the clocks until nobody else holds this.
    pub(crate) async fn watch(self) {
        let clocks = Arc::downgrade(&self.0);
        drop(self);
        while let Some(clocks) = clocks.upgrade() {
            clocks.look((Instant::now(), SystemTime::now()));
            drop(clocks);
            tokio::time::sleep(TICK).await;
        }
    }

    /// Whether a job received at this time may have been finished by others, and its outcome forgotten since.
    pub(crate) fn may_be_late(&self, received: Instant) -> bool {
        self.0.look((Instant::now(), SystemTime::now()));
        self.0.is_late(received)
    }
}

impl Clocks {
    fn look(&self, now: (Instant, SystemTime)) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back says nothing.
        let on_the_wall = now.1.duration_since(seen.last.1).unwrap_or_default();
        if now.0.duration_since(seen.last.0).max(on_the_wall) > self.longest_gap {
            seen.woke = Some(now.0);
        }
        seen.last = now;
    }

    fn is_late(&self, received: Instant) -> bool {
        let woke = self.seen.lock().unwrap_or_else(PoisonError::into_inner).woke;
        received.elapsed() > self.lease || woke.is_some_and(|woke| received <= woke + BUFFERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(600);
    const GAP: Duration = Duration::from_secs(100);

    #[test]
    fn a_job_is_late_after_its_lease_and_after_a_gap_on_either_clock() {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let late_after = |gap: Duration, on_the_wall: Duration| {
            let standstill = Standstill::new(LEASE, GAP);
            let seen = standstill.0.seen.lock().unwrap().last;
            standstill.0.look((seen.0 + gap, seen.1 + on_the_wall));
            standstill.0.is_late(now)
        };
        assert!(!late_after(GAP / 2, GAP / 2));
        assert!(late_after(GAP * 2, GAP / 2));
        assert!(late_after(GAP / 2, GAP * 2));
        let standstill = Standstill::new(LEASE, GAP);
        assert!(!standstill.may_be_late(now));
        standstill.0.look((Instant::now(), wall - GAP * 2));
        assert!(!standstill.0.is_late(now), "a clock that is set back is no standstill");
        assert!(Standstill::new(Duration::ZERO, GAP).may_be_late(now - Duration::from_millis(1)));
    }

    #[test]
    fn jobs_that_come_well_after_a_standstill_are_not_late() {
        let standstill = Standstill::new(LEASE, GAP);
        let seen = standstill.0.seen.lock().unwrap().last;
        let woke = seen.0 + GAP * 2;
        standstill.0.look((woke, seen.1));
        assert!(standstill.0.is_late(woke + BUFFERED));
        assert!(!standstill.0.is_late(woke + BUFFERED * 2));
    }
}
