//! Detects that this process was suspended, so that other workers may have settled its jobs long ago.
//!
//! After a job is settled, its outcome is kept only for `streams.duplicate_window`. A worker that claims an outcome
//! later than that does not learn that there was one before. Checking the elapsed time is not enough: the process can
//! be suspended together with its timers while a job waits in the socket's buffer. A worker that may be late therefore
//! claims the outcome but leaves its publication to the job's next delivery, which does not come if the job is settled.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often the clocks are read.
const TICK: Duration = Duration::from_secs(1);
/// How long after a suspension jobs can arrive that were sent before it.
const BUFFERED: Duration = Duration::from_secs(30);

/// Compares clocks to detect suspensions. Clones share their state.
#[derive(Debug, Clone)]
pub(crate) struct SuspensionDetector(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lease: Duration,
    longest_gap: Duration,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// The last reading of the monotonic clock, which may stop while the machine is suspended, and of the wall clock.
    last: (Instant, SystemTime),
    /// When the process resumed after the last suspension.
    resumed: Option<Instant>,
}

impl SuspensionDetector {
    /// A detector for jobs that are active for at most `lease`. Gaps of up to `longest_gap` do not count as a
    /// suspension.
    pub(crate) fn new(lease: Duration, longest_gap: Duration) -> Self {
        let seen = Mutex::new(Seen { last: (Instant::now(), SystemTime::now()), resumed: None });
        Self(Arc::new(Shared { lease, longest_gap, seen }))
    }

    /// Reads the clocks regularly, for as long as another clone of this detector exists.
    pub(crate) async fn watch(self) {
        let shared = Arc::downgrade(&self.0);
        drop(self);
        while let Some(shared) = shared.upgrade() {
            shared.observe((Instant::now(), SystemTime::now()));
            drop(shared);
            tokio::time::sleep(TICK).await;
        }
    }

    /// Whether a job received at this time may have been settled by another worker and its outcome deleted since.
    pub(crate) fn may_be_late(&self, received: Instant) -> bool {
        self.0.observe((Instant::now(), SystemTime::now()));
        self.0.is_late(received)
    }
}

impl Shared {
    fn observe(&self, now: (Instant, SystemTime)) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A wall clock that was set back shows no gap.
        let wall_gap = now.1.duration_since(seen.last.1).unwrap_or_default();
        if now.0.duration_since(seen.last.0).max(wall_gap) > self.longest_gap {
            seen.resumed = Some(now.0);
        }
        seen.last = now;
    }

    fn is_late(&self, received: Instant) -> bool {
        let resumed = self.seen.lock().unwrap_or_else(PoisonError::into_inner).resumed;
        received.elapsed() > self.lease || resumed.is_some_and(|resumed| received <= resumed + BUFFERED)
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
        let late_after = |gap: Duration, wall_gap: Duration| {
            let detector = SuspensionDetector::new(LEASE, GAP);
            let seen = detector.0.seen.lock().unwrap().last;
            detector.0.observe((seen.0 + gap, seen.1 + wall_gap));
            detector.0.is_late(now)
        };
        assert!(!late_after(GAP / 2, GAP / 2));
        assert!(late_after(GAP * 2, GAP / 2));
        assert!(late_after(GAP / 2, GAP * 2));
        let detector = SuspensionDetector::new(LEASE, GAP);
        assert!(!detector.may_be_late(now));
        detector.0.observe((Instant::now(), wall - GAP * 2));
        assert!(!detector.0.is_late(now), "a clock that is set back is no suspension");
        assert!(SuspensionDetector::new(Duration::ZERO, GAP).may_be_late(now - Duration::from_millis(1)));
    }

    #[test]
    fn jobs_that_come_well_after_a_suspension_are_not_late() {
        let detector = SuspensionDetector::new(LEASE, GAP);
        let seen = detector.0.seen.lock().unwrap().last;
        let resumed = seen.0 + GAP * 2;
        detector.0.observe((resumed, seen.1));
        assert!(detector.0.is_late(resumed + BUFFERED));
        assert!(!detector.0.is_late(resumed + BUFFERED * 2));
    }
}
