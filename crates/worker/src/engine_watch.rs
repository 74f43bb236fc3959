//! Watches the engine: waits until it makes no progress with work in hand, or fails on canaries.
//!
//! A wedged device neither answers nor fails. Only the engine's counters show it, which its thread writes after each
//! pass.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Annotator, EngineError};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

/// How often the engine's counters are read, unless a short `engine.stall_timeout` needs them more often.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Canaries that fail one after the other before the engine counts as stalled.
const FAILED_CANARIES: u32 = 3;

/// Why the engine counts as stalled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineStall {
    /// It made no progress with work in hand for as long as `engine.stall_timeout`.
    #[error("the engine has made no progress with work in hand for {} s (engine.stall_timeout)", .0.as_secs_f64().round())]
    NoProgress(Duration),
    /// It failed on several canaries, requests that are known to be valid, one after the other.
    #[error("the engine failed {FAILED_CANARIES} times on a request that checks the device: {0}")]
    CanaryFailed(String),
}

/// Waits until the engine counts as stalled.
pub(crate) async fn stalled(engine: Arc<dyn Annotator>) -> EngineStall {
    let mut without_progress = WithoutProgress::default();
    let mut canaries = Canaries { interval: engine.canary_interval(), idle_since: None, failed: 0 };
    let mut canary = FuturesUnordered::new();
    let mut last = Instant::now();
    loop {
        let timeout = engine.stall_timeout();
        let poll_interval = timeout.map_or(POLL_INTERVAL, |timeout| POLL_INTERVAL.min(timeout / 10));
        tokio::select! {
            Some(answer) = canary.next() => {
                if let Some(stall) = canaries.ended(answer) {
                    return stall;
                }
                continue;
            }
            () = tokio::time::sleep(poll_interval) => {}
        }
        let Some(snapshot) = engine.snapshot() else { continue };
        let now = Instant::now();
        let stalled_for = without_progress.observe(snapshot.last_progress_age, now - last, poll_interval);
        last = now;
        if timeout.is_some_and(|timeout| stalled_for >= timeout) {
            return EngineStall::NoProgress(stalled_for);
        }
        let is_idle = snapshot.last_progress_age.is_none() && snapshot.queue_size == 0;
        if canaries.is_due(is_idle, now)
            && canary.is_empty()
            && let Some(request) = engine.canary()
        {
            canary.push(engine.submit(request));
        }
    }
}

/// How long the engine has made no progress while it was watched.
#[derive(Debug, Default)]
struct WithoutProgress(Duration);

impl WithoutProgress {
    /// Takes the time since the engine's last progress, `None` without work, and since the last call. A time between two
    /// calls that is much longer than `poll_interval` counts in part only: the whole process was suspended meanwhile,
    /// and not only the engine.
    fn observe(&mut self, age: Option<Duration>, since_last: Duration, poll_interval: Duration) -> Duration {
        self.0 = match age {
            Some(age) if age >= since_last => self.0 + since_last.min(poll_interval * 2),
            _ => Duration::ZERO,
        };
        self.0
    }
}

/// When canaries are due, and how many have failed.
#[derive(Debug)]
struct Canaries {
    interval: Option<Duration>,
    idle_since: Option<Instant>,
    /// Since the last one that was answered.
    failed: u32,
}

impl Canaries {
    fn is_due(&mut self, is_idle: bool, now: Instant) -> bool {
        if !is_idle {
            self.idle_since = None;
            return false;
        }
        let idle_since = *self.idle_since.get_or_insert(now);
        self.interval.is_some_and(|interval| now - idle_since >= interval)
    }

    fn ended<T>(&mut self, answer: Result<T, EngineError>) -> Option<EngineStall> {
        self.idle_since = None;
        let Err(error) = answer else {
            self.failed = 0;
            return None;
        };
        self.failed += 1;
        tracing::warn!(failed = self.failed, "the engine failed on a request that checks the device: {error}");
        (self.failed >= FAILED_CANARIES).then(|| EngineStall::CanaryFailed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(1);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn only_time_with_work_and_without_progress_counts() {
        let mut watch = WithoutProgress::default();
        assert_eq!(watch.observe(Some(seconds(1)), POLL, POLL), seconds(1));
        assert_eq!(watch.observe(Some(seconds(2)), POLL, POLL), seconds(2));
        assert_eq!(watch.observe(Some(Duration::from_millis(900)), POLL, POLL), Duration::ZERO, "it has moved");
        assert_eq!(watch.observe(Some(seconds(2)), POLL, POLL), seconds(1));
        assert_eq!(watch.observe(None, POLL, POLL), Duration::ZERO, "it is idle");
    }

    #[test]
    fn a_suspension_of_the_whole_process_is_no_stall() {
        let mut watch = WithoutProgress::default();
        assert_eq!(watch.observe(Some(seconds(3600)), seconds(3600), POLL), seconds(2));
        assert_eq!(watch.observe(Some(Duration::from_millis(10)), POLL, POLL), Duration::ZERO);
    }

    #[test]
    fn three_canaries_that_fail_in_a_row_are_a_stall() {
        let now = Instant::now();
        let mut canaries = Canaries { interval: Some(seconds(30)), idle_since: None, failed: 0 };
        assert!(!canaries.is_due(true, now));
        assert!(!canaries.is_due(true, now + seconds(29)));
        assert!(canaries.is_due(true, now + seconds(30)));
        assert_eq!(canaries.ended::<()>(Err(EngineError::Stopped)), None);
        assert!(!canaries.is_due(true, now + seconds(31)), "30 s must pass again");
        assert!(!canaries.is_due(false, now + seconds(70)) && !canaries.is_due(true, now + seconds(71)));
        assert_eq!(canaries.ended(Ok(())), None);
        assert_eq!([(); 2].map(|()| canaries.ended::<()>(Err(EngineError::Stopped))), [None, None]);
        assert!(canaries.ended::<()>(Err(EngineError::Stopped)).is_some());
        let mut never = Canaries { interval: None, idle_since: None, failed: 0 };
        assert!(!never.is_due(true, now) && !never.is_due(true, now + seconds(3600)));
    }
}
