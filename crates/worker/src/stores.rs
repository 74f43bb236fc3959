//! Stores and parts of stores that do not answer: their jobs wait, and one read at a time finds out whether they do.
//!
//! A circuit breaker for each bucket, and for each first part of a key within it (`bucket/prefix/`). It opens after
//! failures alone, for a while, and closes at the first answer. While it is open, jobs wait in the stream of retries and
//! no attempt is counted. After the longest time that jobs are to wait they are attempted again, so that they end.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use broker::backoff::Backoff;

use crate::fetch::{FetchError, FetchErrorKind};

/// Failures one after the other, and the time that they must span, before jobs wait.
const FAILURES: u32 = 10;
const FAILING_FOR: Duration = Duration::from_secs(5);
/// Delay between two reads of a store that does not answer.
const PROBE: Backoff = Backoff::seconds(1, 30);
/// Most stores and parts that are known as failing: beyond that, more are not watched.
const MOST: usize = 1024;

/// What failed last, by bucket and by part of a bucket. Those that answer are not kept.
#[derive(Debug)]
pub(crate) struct Stores {
    longest: Duration,
    failing: Mutex<HashMap<String, Failing>>,
}

#[derive(Debug)]
struct Failing {
    failures: u32,
    since: Instant,
    /// The part that failed first, and whether others did too. A bucket whose failures are all in one part is not failing
    /// as a whole.
    part: String,
    several_parts: bool,
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
    /// It was open for as long as jobs are to wait.
    GivenUp,
}

/// Jobs of this store, or part of it, are not read at present.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("s3://{0} does not answer: its jobs wait until a read succeeds")]
pub struct StoreAway(String);

impl Stores {
    /// Jobs wait for one that does not answer for as long as `longest`; zero stands for not at all.
    pub(crate) fn new(longest: Duration) -> Self {
        Self { longest, failing: Mutex::default() }
    }

    /// Whether an object may be read now.
    ///
    /// # Errors
    /// [`StoreAway`]: its job is to wait.
    pub(crate) fn admit(&self, bucket: &str, key: &str) -> Result<(), StoreAway> {
        self.admit_at(bucket, key, Instant::now())
    }

    fn admit_at(&self, bucket: &str, key: &str, now: Instant) -> Result<(), StoreAway> {
        let mut failing = self.failing();
        for name in names(bucket, key) {
            let Some(known) = failing.get_mut(&name) else { continue };
            let Breaker::Open { since, next_probe, probes } = known.breaker else { continue };
            if now.duration_since(since) >= self.longest {
                known.breaker = Breaker::GivenUp;
                tracing::warn!(
                    "s3://{name} has not answered for {:?} (worker.store_outage_wait): its jobs are attempted again, and fail after worker.max_deliveries attempts",
                    self.longest
                );
            } else if now < next_probe {
                return Err(StoreAway(name));
            } else {
                let probes = probes + 1;
                known.breaker = Breaker::Open { since, next_probe: now + PROBE.delay(probes), probes };
            }
        }
        Ok(())
    }

    /// Takes in how a read ended.
    pub(crate) fn ended(&self, bucket: &str, key: &str, read: Result<(), &FetchError>) {
        match read.map_err(|error| (error, error.kind())) {
            Ok(()) => self.answered(bucket, key),
            Err((error, FetchErrorKind::Unavailable | FetchErrorKind::Throttled | FetchErrorKind::Misconfigured)) => {
                self.failed_at(bucket, key, error, Instant::now());
            }
            // It never came to the store.
            Err((_, FetchErrorKind::NotAllowed | FetchErrorKind::Exhausted | FetchErrorKind::BadAddress)) => {}
            Err(_) => self.answered(bucket, key),
        }
    }

    fn answered(&self, bucket: &str, key: &str) {
        let mut failing = self.failing();
        for name in names(bucket, key) {
            if let Some(Failing { breaker: Breaker::Open { since, .. }, .. }) = failing.remove(&name) {
                tracing::info!("s3://{name} answers again after {:.0?}: its jobs go on", since.elapsed());
            }
        }
    }

    fn failed_at(&self, bucket: &str, key: &str, error: &FetchError, now: Instant) {
        let mut failing = self.failing();
        let [bucket, part] = names(bucket, key);
        for (name, is_part) in [(&part, true), (&bucket, false)] {
            if failing.len() >= MOST && !failing.contains_key(name) {
                continue;
            }
            let known = failing.entry(name.clone()).or_insert_with(|| Failing {
                failures: 0,
                since: now,
                part: part.clone(),
                several_parts: false,
                breaker: Breaker::Closed,
            });
            known.failures = known.failures.saturating_add(1);
            known.several_parts |= known.part != part;
            let fails_as_a_whole = known.failures >= FAILURES
                && now.duration_since(known.since) >= FAILING_FOR
                && (is_part || known.several_parts);
            if fails_as_a_whole && matches!(known.breaker, Breaker::Closed) && !self.longest.is_zero() {
                known.breaker = Breaker::Open { since: now, next_probe: now + PROBE.delay(1), probes: 1 };
                tracing::warn!(
                    failures = known.failures,
                    "s3://{name} does not answer: its jobs wait for up to {:?} (worker.store_outage_wait), and one of them is tried every {:?} at most; the last error: {error}",
                    self.longest,
                    PROBE.longest
                );
            }
        }
    }

    /// The map is whole at every moment, so a panic elsewhere does no harm to it.
    fn failing(&self) -> MutexGuard<'_, HashMap<String, Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bucket, and the part of it that the key is in.
fn names(bucket: &str, key: &str) -> [String; 2] {
    let part = key.split_once('/').map_or("", |(part, _)| part);
    [bucket.to_owned(), format!("{bucket}/{part}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// As many failures as it takes, one every half second from `from`. Gives the time of the last.
    fn fail(stores: &Stores, keys: &[&str], from: Instant) -> Instant {
        let error = FetchError::new(FetchErrorKind::Unavailable, "503");
        let mut now = from;
        for i in 0..=FAILURES {
            now = from + FAILING_FOR / FAILURES * i;
            stores.failed_at("b", keys[i as usize % keys.len()], &error, now);
        }
        now
    }

    fn waits(stores: &Stores, key: &str, now: Instant) -> Option<String> {
        stores.admit_at("b", key, now).err().map(|StoreAway(name)| name)
    }

    #[test]
    fn a_part_that_fails_waits_alone_and_a_bucket_that_fails_in_several_parts_as_a_whole() {
        let stores = Stores::new(HOUR);
        let now = fail(&stores, &["bad/1", "bad/2"], Instant::now());
        assert_eq!(waits(&stores, "bad/3", now).as_deref(), Some("b/bad"));
        assert_eq!(waits(&stores, "good/3", now), None);
        stores.answered("b", "good/3");
        assert_eq!(
            waits(&stores, "bad/3", now).as_deref(),
            Some("b/bad"),
            "only an answer from the part itself ends it"
        );
        stores.answered("b", "bad/1");
        assert_eq!(waits(&stores, "bad/3", now), None);
        let now = fail(&stores, &["x/1", "y/1"], now);
        assert_eq!(waits(&stores, "good/3", now).as_deref(), Some("b"));
        stores.answered("b", "z/1");
        assert_eq!(waits(&stores, "good/3", now), None);
    }

    #[test]
    fn failures_with_answers_in_between_or_in_a_moment_make_no_job_wait() {
        let stores = Stores::new(HOUR);
        let (start, error) = (Instant::now(), FetchError::new(FetchErrorKind::Throttled, "503"));
        for i in 0..100 {
            stores.failed_at("b", "k", &error, start + Duration::from_secs(i));
            if i % 5 == 0 {
                stores.answered("b", "k");
            }
        }
        assert_eq!(waits(&stores, "k", start), None);
        for _ in 0..100 {
            stores.failed_at("c", "k", &error, start);
        }
        assert_eq!(stores.admit_at("c", "k", start), Ok(()));
    }

    #[test]
    fn one_read_at_a_time_finds_out_and_after_the_longest_wait_all_are_attempted() {
        let stores = Stores::new(HOUR);
        let opened = fail(&stores, &["bad/1"], Instant::now());
        let seconds = |seconds| opened + Duration::from_secs(seconds);
        let tried: Vec<u64> = (0..100).filter(|second| waits(&stores, "bad/1", seconds(*second)).is_none()).collect();
        assert_eq!(tried, [1, 3, 7, 15, 31, 61, 91]);
        assert_eq!(waits(&stores, "bad/1", seconds(3600)), None);
        assert_eq!(waits(&stores, "bad/1", seconds(3601)), None);
        let never = Stores::new(Duration::ZERO);
        let now = fail(&never, &["bad/1"], Instant::now());
        assert_eq!(waits(&never, "bad/1", now), None);
    }
}
