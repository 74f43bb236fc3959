//! Circuit breakers for S3 buckets and prefixes from which nothing can be read.
//!
//! There is one for each bucket and for each first segment of the keys within it (`bucket/prefix/`). A breaker opens
//! after enough consecutive failures and closes at the first success. While it is open, its jobs wait in the retries
//! stream without counting attempts, and single reads probe the store. After the longest time that jobs are to wait
//! they are attempted again, so that they end.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use broker::backoff::Backoff;

use crate::fetch::{FetchError, FetchErrorKind};

/// A breaker opens after this many consecutive failures, if they span at least this time.
const FAILURES: u32 = 10;
const FAILING_FOR: Duration = Duration::from_secs(5);
/// Delays between two probes.
const PROBE: Backoff = Backoff::seconds(1, 30);
/// Failures further apart than this are not consecutive: the reads in between may have been those of other workers.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10 * 60);
/// Maximum number of failing buckets and prefixes. For a further one, the one that failed least recently is forgotten.
const MAX_TRACKED: usize = 1024;

/// The circuit breakers. Only buckets and prefixes with failures are stored.
#[derive(Debug)]
pub(crate) struct CircuitBreakers {
    longest: Duration,
    failing: Mutex<HashMap<String, Failing>>,
}

#[derive(Debug)]
struct Failing {
    failures: u32,
    since: Instant,
    last: Instant,
    /// The prefix that failed first, and whether others have failed too: a bucket's own breaker opens only if reads
    /// fail in several of its prefixes.
    prefix: String,
    several_prefixes: bool,
    breaker: Breaker,
}

#[derive(Debug, Clone, Copy)]
enum Breaker {
    Closed,
    Open {
        since: Instant,
        next_probe: Instant,
        probes: u64,
    },
    /// It was open for the longest time that jobs are to wait. Jobs are attempted until a read succeeds.
    Expired,
}

/// The circuit breaker of the object's bucket or prefix is open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("s3://{0} is unavailable: its jobs wait until a read succeeds")]
pub struct StoreUnavailable(String);

impl CircuitBreakers {
    /// Breakers that stay open for at most `longest`. Zero disables them.
    pub(crate) fn new(longest: Duration) -> Self {
        Self { longest, failing: Mutex::default() }
    }

    /// Whether an object may be read now.
    ///
    /// # Errors
    /// [`StoreUnavailable`]: the job must wait.
    pub(crate) fn admit(&self, bucket: &str, key: &str) -> Result<(), StoreUnavailable> {
        self.admit_at(bucket, key, Instant::now())
    }

    fn admit_at(&self, bucket: &str, key: &str, now: Instant) -> Result<(), StoreUnavailable> {
        let mut failing = self.failing();
        for name in names(bucket, key) {
            let Some(known) = failing.get_mut(&name) else { continue };
            let Breaker::Open { since, next_probe, probes } = known.breaker else { continue };
            if now.duration_since(since) >= self.longest {
                known.breaker = Breaker::Expired;
                tracing::warn!(
                    "s3://{name} has been unavailable for {:?} (worker.store_outage_wait): its jobs are attempted again and fail after worker.max_deliveries attempts",
                    self.longest
                );
            } else if now < next_probe {
                return Err(StoreUnavailable(name));
            } else {
                let probes = probes + 1;
                known.breaker = Breaker::Open { since, next_probe: now + PROBE.delay(probes), probes };
            }
        }
        Ok(())
    }

    /// Records the result of a read.
    pub(crate) fn record(&self, bucket: &str, key: &str, read: Result<(), &FetchError>) {
        match read.map_err(|error| (error, error.kind())) {
            Ok(()) => self.record_success(bucket, key),
            Err((error, FetchErrorKind::Unavailable | FetchErrorKind::Throttled | FetchErrorKind::Misconfigured)) => {
                self.record_failure(bucket, key, error, Instant::now());
            }
            // The store was not asked.
            Err((_, FetchErrorKind::NotAllowed | FetchErrorKind::Exhausted | FetchErrorKind::BadAddress)) => {}
            // The store has answered.
            Err(_) => self.record_success(bucket, key),
        }
    }

    fn record_success(&self, bucket: &str, key: &str) {
        let mut failing = self.failing();
        for name in names(bucket, key) {
            if let Some(Failing { breaker: Breaker::Open { since, .. }, .. }) = failing.remove(&name) {
                tracing::info!("s3://{name} is available again after {:.0?}: its jobs continue", since.elapsed());
            }
        }
    }

    fn record_failure(&self, bucket: &str, key: &str, error: &FetchError, now: Instant) {
        let mut failing = self.failing();
        let [bucket, prefix] = names(bucket, key);
        for (name, is_prefix) in [(&prefix, true), (&bucket, false)] {
            if failing.len() >= MAX_TRACKED && !failing.contains_key(name) && !forget_one(&mut failing) {
                continue;
            }
            let first = || Failing {
                failures: 0,
                since: now,
                last: now,
                prefix: prefix.clone(),
                several_prefixes: false,
                breaker: Breaker::Closed,
            };
            let known = failing.entry(name.clone()).or_insert_with(first);
            if matches!(known.breaker, Breaker::Closed) && now.duration_since(known.last) > FORGOTTEN_AFTER {
                *known = first();
            }
            known.last = now;
            known.failures = known.failures.saturating_add(1);
            known.several_prefixes |= known.prefix != prefix;
            let should_open = known.failures >= FAILURES
                && now.duration_since(known.since) >= FAILING_FOR
                && (is_prefix || known.several_prefixes);
            if should_open && matches!(known.breaker, Breaker::Closed) && !self.longest.is_zero() {
                known.breaker = Breaker::Open { since: now, next_probe: now + PROBE.delay(1), probes: 1 };
                tracing::warn!(
                    failures = known.failures,
                    "s3://{name} is unavailable: its jobs wait for up to {:?} (worker.store_outage_wait), and one of them is tried at least every {:?}; last error: {error}",
                    self.longest,
                    PROBE.longest
                );
            }
        }
    }

    /// The map is consistent after every operation, so a poisoned lock is safe to use.
    fn failing(&self) -> MutexGuard<'_, HashMap<String, Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the bucket or prefix that failed least recently and whose jobs do not wait. Returns whether there was one.
fn forget_one(failing: &mut HashMap<String, Failing>) -> bool {
    let idle = failing.iter().filter(|(_, known)| !matches!(known.breaker, Breaker::Open { .. }));
    let Some(name) = idle.min_by_key(|(_, known)| known.last).map(|(name, _)| name.clone()) else { return false };
    failing.remove(&name);
    true
}

/// The names of the breakers of the object's bucket and prefix.
fn names(bucket: &str, key: &str) -> [String; 2] {
    let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
    [bucket.to_owned(), format!("{bucket}/{prefix}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// As many failures as open a breaker, one every half second from `from`. Returns the time of the last.
    fn fail(breakers: &CircuitBreakers, keys: &[&str], from: Instant) -> Instant {
        let error = FetchError::new(FetchErrorKind::Unavailable, "503");
        let mut now = from;
        for i in 0..=FAILURES {
            now = from + FAILING_FOR / FAILURES * i;
            breakers.record_failure("b", keys[i as usize % keys.len()], &error, now);
        }
        now
    }

    fn waits(breakers: &CircuitBreakers, key: &str, now: Instant) -> Option<String> {
        breakers.admit_at("b", key, now).err().map(|StoreUnavailable(name)| name)
    }

    #[test]
    fn a_part_that_fails_waits_alone_and_a_bucket_that_fails_in_several_parts_as_a_whole() {
        let breakers = CircuitBreakers::new(HOUR);
        let now = fail(&breakers, &["bad/1", "bad/2"], Instant::now());
        assert_eq!(waits(&breakers, "bad/3", now).as_deref(), Some("b/bad"));
        assert_eq!(waits(&breakers, "good/3", now), None);
        breakers.record_success("b", "good/3");
        assert_eq!(
            waits(&breakers, "bad/3", now).as_deref(),
            Some("b/bad"),
            "only a success in the prefix itself closes its breaker"
        );
        breakers.record_success("b", "bad/1");
        assert_eq!(waits(&breakers, "bad/3", now), None);
        let now = fail(&breakers, &["x/1", "y/1"], now);
        assert_eq!(waits(&breakers, "good/3", now).as_deref(), Some("b"));
        breakers.record_success("b", "z/1");
        assert_eq!(waits(&breakers, "good/3", now), None);
    }

    #[test]
    fn failures_with_answers_in_between_or_in_a_moment_make_no_job_wait() {
        let breakers = CircuitBreakers::new(HOUR);
        let (start, error) = (Instant::now(), FetchError::new(FetchErrorKind::Throttled, "503"));
        for i in 0..100 {
            breakers.record_failure("b", "k", &error, start + Duration::from_secs(i));
            if i % 5 == 0 {
                breakers.record_success("b", "k");
            }
        }
        assert_eq!(waits(&breakers, "k", start), None);
        for _ in 0..100 {
            breakers.record_failure("c", "k", &error, start);
        }
        assert_eq!(breakers.admit_at("c", "k", start), Ok(()));
    }

    #[test]
    fn prefixes_that_failed_once_do_not_keep_others_from_being_noticed() {
        let breakers = CircuitBreakers::new(HOUR);
        let (start, error) = (Instant::now(), FetchError::new(FetchErrorKind::Unavailable, "503"));
        for i in 0..MAX_TRACKED as u64 + 10 {
            breakers.record_failure("b", &format!("{i}/k"), &error, start + Duration::from_millis(i));
            // Another prefix of the bucket can be read.
            breakers.record_success("b", "good/k");
        }
        assert!(breakers.failing().len() <= MAX_TRACKED);
        let now = fail(&breakers, &["x/1", "y/1"], start + Duration::from_secs(60));
        assert_eq!(waits(&breakers, "good/3", now).as_deref(), Some("b"));
    }

    #[test]
    fn failures_of_last_week_do_not_count() {
        let breakers = CircuitBreakers::new(HOUR);
        let (start, error) = (Instant::now(), FetchError::new(FetchErrorKind::Unavailable, "503"));
        for i in 0..FAILURES - 1 {
            breakers.record_failure("b", "k", &error, start + Duration::from_secs(u64::from(i)));
        }
        let week = start + Duration::from_secs(7 * 24 * 3600);
        breakers.record_failure("b", "k", &error, week);
        assert_eq!(waits(&breakers, "k", week), None);
    }

    #[test]
    fn one_read_at_a_time_finds_out_and_after_the_longest_wait_all_are_attempted() {
        let breakers = CircuitBreakers::new(HOUR);
        let opened = fail(&breakers, &["bad/1"], Instant::now());
        let seconds = |seconds| opened + Duration::from_secs(seconds);
        let tried: Vec<u64> = (0..100).filter(|second| waits(&breakers, "bad/1", seconds(*second)).is_none()).collect();
        assert_eq!(tried, [1, 3, 7, 15, 31, 61, 91]);
        assert_eq!(waits(&breakers, "bad/1", seconds(3600)), None);
        assert_eq!(waits(&breakers, "bad/1", seconds(3601)), None);
        let never = CircuitBreakers::new(Duration::ZERO);
        let now = fail(&never, &["bad/1"], Instant::now());
        assert_eq!(waits(&never, "bad/1", now), None);
    }
}
