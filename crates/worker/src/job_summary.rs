//! A log line from time to time about all jobs, instead of one for each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::{Info, PullConsumer};
use tokio::time::Instant;
use wire::v1::FailureReason;

/// Warnings about single jobs between two summaries. Further ones are logged at debug level: a bucket that is gone would
/// fill the log with them.
const MAX_WARNINGS: u64 = 20;

/// How long the server may take to respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What has become of jobs since the last summary. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobCounts(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    annotated: AtomicU64,
    requeued: AtomicU64,
    warnings: AtomicU64,
    failures: Mutex<BTreeMap<FailureReason, u64>>,
    /// The active jobs now.
    active: AtomicUsize,
}

/// The counts between two summaries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Period {
    annotated: u64,
    requeued: u64,
    /// Warnings about single jobs that were logged at debug level.
    warnings_left_out: u64,
    failures: BTreeMap<FailureReason, u64>,
    active: usize,
}

impl JobCounts {
    pub(crate) fn annotated(&self) {
        self.0.annotated.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, reason: FailureReason) {
        // The map is consistent after every operation, so a poisoned lock is safe to use.
        *self.0.failures.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    pub(crate) fn requeued(&self) {
        self.0.requeued.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_active(&self, jobs: usize) {
        self.0.active.store(jobs, Ordering::Relaxed);
    }

    /// Whether a warning about one job is logged as one. Counts it.
    pub(crate) fn may_warn(&self) -> bool {
        self.0.warnings.fetch_add(1, Ordering::Relaxed) < MAX_WARNINGS
    }

    fn take(&self) -> Period {
        let Counts { annotated, requeued, warnings, failures, active } = &*self.0;
        Period {
            annotated: annotated.swap(0, Ordering::Relaxed),
            requeued: requeued.swap(0, Ordering::Relaxed),
            warnings_left_out: warnings.swap(0, Ordering::Relaxed).saturating_sub(MAX_WARNINGS),
            failures: std::mem::take(&mut *failures.lock().unwrap_or_else(PoisonError::into_inner)),
            active: active.load(Ordering::Relaxed),
        }
    }
}

impl Period {
    fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn is_idle(&self) -> bool {
        self.annotated + self.failed() + self.requeued == 0 && self.active == 0
    }

    /// `OBJECT_NOT_FOUND=3 UNDECODABLE_PICTURE=1`.
    fn reasons(&self) -> Option<String> {
        let name = |reason: &FailureReason| reason.as_str_name().trim_start_matches("FAILURE_REASON_").to_owned();
        let reasons: Vec<_> = self.failures.iter().map(|(reason, count)| format!("{}={count}", name(reason))).collect();
        (!reasons.is_empty()).then(|| reasons.join(" "))
    }
}

/// Logs a summary at each `interval`, unless it is zero. Nothing is logged while there are no jobs.
pub(crate) async fn log_summaries(counts: JobCounts, jobs: PullConsumer, retries: PullConsumer, interval: Duration) {
    if interval.is_zero() {
        return;
    }
    let mut since = Instant::now();
    loop {
        tokio::time::sleep_until(since + interval).await;
        let period = counts.take();
        let seconds = since.elapsed().as_secs_f64();
        since = Instant::now();
        let (waiting, retrying) = (waiting(&jobs).await, not_ended(&retries).await);
        if period.is_idle() && waiting.unwrap_or(0) + retrying.unwrap_or(0) == 0 {
            continue;
        }
        let jobs_per_s = (period.annotated + period.failed()) as f64 / seconds;
        tracing::info!(
            annotated = period.annotated,
            failed = period.failed(),
            failures = period.reasons(),
            requeued = period.requeued,
            jobs_per_s = (jobs_per_s * 100.0).round() / 100.0,
            active_jobs = period.active,
            waiting_jobs = waiting,
            retrying,
            warnings_left_out = (period.warnings_left_out > 0).then_some(period.warnings_left_out),
            "jobs in the last {seconds:.0} s"
        );
    }
}

/// The messages that a consumer has not delivered yet, to any worker. `None` if the server does not say.
async fn waiting(consumer: &PullConsumer) -> Option<u64> {
    Some(info(consumer).await?.num_pending)
}

/// The messages that a consumer has not delivered, and those that were not acknowledged: a retry is delivered before its
/// delay is over. `None` if the server does not say.
async fn not_ended(consumer: &PullConsumer) -> Option<u64> {
    let info = info(consumer).await?;
    Some(info.num_pending + info.num_ack_pending as u64)
}

async fn info(consumer: &PullConsumer) -> Option<Info> {
    tokio::time::timeout(RESPONSE_TIMEOUT, consumer.get_info()).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_has_what_was_counted_since_the_last_one() {
        let counts = JobCounts::default();
        assert!(counts.take().is_idle());
        counts.annotated();
        counts.requeued();
        for reason in [FailureReason::UndecodablePicture, FailureReason::ObjectNotFound, FailureReason::ObjectNotFound]
        {
            counts.failed(reason);
        }
        counts.set_active(4);
        let period = counts.take();
        assert_eq!((period.annotated, period.failed(), period.requeued, period.active), (1, 3, 1, 4));
        assert_eq!(period.reasons().as_deref(), Some("OBJECT_NOT_FOUND=2 UNDECODABLE_PICTURE=1"));
        let next = counts.take();
        assert_eq!(next, Period { active: 4, ..Period::default() });
        assert!(!next.is_idle(), "jobs are active");
    }

    #[test]
    fn only_the_first_warnings_of_a_period_are_logged_as_warnings() {
        let counts = JobCounts::default();
        let warned = (0..30).filter(|_| counts.may_warn()).count();
        assert_eq!((warned as u64, counts.take().warnings_left_out), (MAX_WARNINGS, 30 - MAX_WARNINGS));
        assert!(counts.may_warn(), "the next period warns again");
    }
}
