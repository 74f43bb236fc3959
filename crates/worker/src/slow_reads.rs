//! Permits for slow reads, so that a store that stalls does not occupy the slots of all jobs.
//!
//! A read is slow if it takes much longer than most. Its job then exchanges its slot for a [`SlowReadPermit`]. Both the
//! number of these permits and the memory of the reads that hold them are limited. If no permit is free, new jobs and
//! retries are treated differently:
//!
//! - A new job displaces the read that has waited longest in the dataset with the most slow reads. The displaced job
//!   moves
//!   to the retries stream, where its read may take all of `s3.operation_timeout`.
//! - A retry waits for a permit. One dataset gets at most half of the permits for retries.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::queue::Queue;

/// A read is slow after twice the 90th percentile of read times, within these limits.
const THRESHOLD: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// The estimate of the 90th percentile before the first read, in seconds.
const INITIAL_ESTIMATE: f64 = 0.05;
/// Factors that adjust the estimate after a longer and after a shorter read. One longer read in ten balances nine
/// shorter ones.
const ADJUST: (f64, f64) = (1.2, 0.98);
/// A slow read of a new job keeps its permit for at least this long.
const MIN_HOLD: Duration = Duration::from_secs(1);
/// Minimum interval between two log lines about displaced jobs.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The slow reads of a worker. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct SlowReads(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    jobs: Limits,
    retries: Limits,
    state: Mutex<State>,
    /// Notified when a permit was released or a read has ended.
    changed: Notify,
}

/// The limits on the slow reads of one queue.
#[derive(Debug, Clone, Copy)]
struct Limits {
    permits: usize,
    bytes: u64,
}

#[derive(Debug)]
struct State {
    /// By id, which is the order in which they became slow.
    reads: BTreeMap<u64, SlowRead>,
    next_id: u64,
    /// New jobs that wait for a permit.
    waiting: usize,
    /// The estimate of the 90th percentile of read times, in seconds.
    estimate: f64,
    displaced: u64,
    logged: Option<Instant>,
}

#[derive(Debug)]
struct SlowRead {
    queue: Queue,
    dataset: String,
    bytes: u64,
    since: Instant,
    phase: Phase,
}

#[derive(Debug, Clone)]
enum Phase {
    /// Cancelling the token displaces the read.
    Reading(CancellationToken),
    /// It was told to release its permit.
    Displaced,
    /// The bytes have arrived and the job continues.
    Done,
}

/// A job's permit for a slow read; released when dropped.
#[derive(Debug)]
pub(crate) struct SlowReadPermit {
    reads: SlowReads,
    id: u64,
}

impl SlowReadPermit {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

/// Why a slow read was aborted. The store has not failed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlowReadAborted {
    /// The read of a new job needed the permit.
    #[error(
        "the store is slow and all slow reads (worker.max_slow_reads) are in use: the job is read again as a retry, so that new jobs can continue"
    )]
    Displaced,
    /// Other retries of the dataset hold all permits that one dataset may have.
    #[error(
        "the store is slow, and other retries of this dataset hold all the slow reads that one dataset may have (a quarter of worker.max_slow_reads): the job waits and is read again"
    )]
    ShareUsed,
}

enum Acquire {
    Acquired(SlowReadPermit, CancellationToken),
    ShareUsed,
    /// No permit is free: wait for a change, or until this time.
    Full(Option<Instant>),
}

impl SlowReads {
    /// At most `permits` for new jobs and half as many for retries. Each of the two may hold a quarter of `bytes`.
    pub(crate) fn new(permits: usize, bytes: u64) -> Self {
        let bytes = bytes / 4;
        let state = State {
            reads: BTreeMap::new(),
            next_id: 0,
            waiting: 0,
            estimate: INITIAL_ESTIMATE,
            displaced: 0,
            logged: None,
        };
        Self(Arc::new(Shared {
            jobs: Limits { permits, bytes },
            retries: Limits { permits: retry_permits(permits), bytes },
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }

    /// How long a read may take before it is slow.
    pub(crate) fn threshold(&self) -> Duration {
        Duration::from_secs_f64(self.state().estimate * 2.0).clamp(THRESHOLD.0, THRESHOLD.1)
    }

    /// Adjusts the estimate by the time that a read took.
    pub(crate) fn record(&self, took: Duration) {
        let mut state = self.state();
        let factor = if took.as_secs_f64() > state.estimate { ADJUST.0 } else { ADJUST.1 };
        let (shortest, longest) = (THRESHOLD.0.as_secs_f64() / 2.0, THRESHOLD.1.as_secs_f64() / 2.0);
        state.estimate = (state.estimate * factor).clamp(shortest, longest);
    }

    /// Waits for a permit for a read that holds `bytes` of memory. Cancelling the token displaces the read.
    ///
    /// # Errors
    /// [`SlowReadAborted::ShareUsed`].
    pub(crate) async fn acquire(
        &self,
        queue: Queue,
        dataset: &str,
        bytes: u64,
    ) -> Result<(SlowReadPermit, CancellationToken), SlowReadAborted> {
        let mut waiting = None;
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Changes between here and the wait below are not missed.
            changed.as_mut().enable();
            let until = match self.try_acquire(queue, dataset, bytes, waiting.is_some(), Instant::now()) {
                Acquire::Acquired(permit, displaced) => return Ok((permit, displaced)),
                Acquire::ShareUsed => return Err(SlowReadAborted::ShareUsed),
                Acquire::Full(until) => until,
            };
            if queue == Queue::Jobs && waiting.is_none() {
                waiting = Some(Waiting::new(self));
                continue;
            }
            match until {
                Some(until) => drop(tokio::time::timeout_at(until, changed).await),
                None => changed.await,
            }
        }
    }

    fn try_acquire(&self, queue: Queue, dataset: &str, bytes: u64, may_displace: bool, now: Instant) -> Acquire {
        let mut state = self.state();
        let limits = if queue == Queue::Jobs { self.0.jobs } else { self.0.retries };
        let of_queue = || state.reads.values().filter(|read| read.queue == queue);
        let (permits, used) = (of_queue().count(), of_queue().map(|read| read.bytes).sum::<u64>());
        let of_dataset = of_queue().filter(|read| read.dataset == dataset).count();
        if queue == Queue::Retries && of_dataset >= limits.permits.div_ceil(2) {
            return Acquire::ShareUsed;
        }
        if permits < limits.permits && (permits == 0 || used.saturating_add(bytes) <= limits.bytes) {
            let (id, displaced) = (state.next_id, CancellationToken::new());
            state.next_id += 1;
            let phase = Phase::Reading(displaced.clone());
            let read = SlowRead { queue, dataset: dataset.to_owned(), bytes, since: now, phase };
            state.reads.insert(id, read);
            return Acquire::Acquired(SlowReadPermit { reads: self.clone(), id }, displaced);
        }
        if queue == Queue::Retries || !may_displace {
            return Acquire::Full(None);
        }
        state.displace_one(now)
    }

    /// Records that the read with this permit has ended. Its job keeps the permit and is no longer displaced.
    pub(crate) fn end_read(&self, id: u64) {
        if let Some(read) = self.state().reads.get_mut(&id)
            && let Phase::Reading(_) = read.phase
        {
            read.phase = Phase::Done;
            // From now on its memory counts only towards the byte budget, as that of any other job.
            read.bytes = 0;
        }
        self.0.changed.notify_waiters();
    }

    /// The state is consistent after every operation, so a poisoned lock is safe to use.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of permits for retries where new jobs have `permits`.
pub(crate) fn retry_permits(permits: usize) -> usize {
    (permits / 2).max(1)
}

impl State {
    /// Displaces a slow read of a new job, unless as many are already leaving as jobs are waiting.
    fn displace_one(&mut self, now: Instant) -> Acquire {
        let reads = || self.reads.iter().filter(|(_, read)| read.queue == Queue::Jobs);
        let leaving = reads().filter(|(_, read)| matches!(read.phase, Phase::Displaced)).count();
        if leaving >= self.waiting {
            return Acquire::Full(None);
        }
        let mut of_dataset: BTreeMap<&str, usize> = BTreeMap::new();
        let reading = || reads().filter(|(_, read)| matches!(read.phase, Phase::Reading(_)));
        for (_, read) in reading() {
            *of_dataset.entry(&read.dataset).or_default() += 1;
        }
        let held_until = |read: &SlowRead| read.since + MIN_HOLD;
        // In the dataset with the most slow reads. Ids grow, so the smallest is the oldest.
        let oldest = reading()
            .filter(|(_, read)| held_until(read) <= now)
            .max_by_key(|(id, read)| (of_dataset.get(read.dataset.as_str()).copied(), std::cmp::Reverse(**id)))
            .map(|(id, _)| *id);
        let Some(id) = oldest else {
            return Acquire::Full(reading().map(|(_, read)| held_until(read)).min());
        };
        self.displace(id);
        Acquire::Full(None)
    }

    fn displace(&mut self, id: u64) {
        let Some(read) = self.reads.get_mut(&id) else { return };
        if let Phase::Reading(displaced) = std::mem::replace(&mut read.phase, Phase::Displaced) {
            displaced.cancel();
        }
        self.displaced += 1;
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            self.logged = Some(Instant::now());
            tracing::warn!(
                moved = self.displaced,
                dataset = read.dataset,
                "more reads from the store are slow than worker.max_slow_reads allows: the slowest jobs move to the retries stream, so that new jobs can continue"
            );
        }
    }
}

/// A new job that waits for a permit.
struct Waiting<'a>(&'a SlowReads);

impl<'a> Waiting<'a> {
    fn new(reads: &'a SlowReads) -> Self {
        reads.state().waiting += 1;
        Self(reads)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

impl Drop for SlowReadPermit {
    fn drop(&mut self) {
        self.reads.state().reads.remove(&self.id);
        self.reads.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Job {
        permit: SlowReadPermit,
        displaced: CancellationToken,
    }

    /// A slow read that should get a permit at once.
    fn acquire(reads: &SlowReads, queue: Queue, dataset: &str, bytes: u64, now: Instant) -> Option<Job> {
        match reads.try_acquire(queue, dataset, bytes, true, now) {
            Acquire::Acquired(permit, displaced) => Some(Job { permit, displaced }),
            Acquire::ShareUsed | Acquire::Full(_) => None,
        }
    }

    #[test]
    fn the_longest_waiting_of_the_dataset_with_most_makes_room_for_a_new_slow_read() {
        let (reads, now) = (SlowReads::new(3, u64::MAX), Instant::now());
        let of = |dataset, now| acquire(&reads, Queue::Jobs, dataset, 1, now);
        let jobs: Vec<Job> = ["a", "b", "b"].iter().map(|dataset| of(dataset, now).unwrap()).collect();
        let told = || jobs.iter().map(|job| job.displaced.is_cancelled()).collect::<Vec<_>>();
        let waiting = Waiting::new(&reads);
        let soon = now + MIN_HOLD / 2;
        let Acquire::Full(until) = reads.try_acquire(Queue::Jobs, "c", 1, true, soon) else { panic!("it is full") };
        assert_eq!((until, told()), (Some(now + MIN_HOLD), vec![false; 3]), "each keeps its permit for a while");
        let later = now + MIN_HOLD;
        assert!(of("c", later).is_none());
        assert_eq!(told(), [false, true, false]);
        assert!(of("c", later).is_none());
        assert_eq!(told(), [false, true, false], "one is displaced for each that waits");
        let mut jobs = jobs;
        drop(jobs.remove(1));
        assert!(of("c", later).is_some());
        drop(waiting);
    }

    #[test]
    fn a_job_whose_bytes_are_there_keeps_its_place_to_its_end() {
        let (reads, now) = (SlowReads::new(1, u64::MAX), Instant::now());
        let job = acquire(&reads, Queue::Jobs, "a", 1, now).unwrap();
        reads.end_read(job.permit.id());
        let _waiting = Waiting::new(&reads);
        assert!(acquire(&reads, Queue::Jobs, "a", 1, now + MIN_HOLD).is_none());
        assert!(!job.displaced.is_cancelled());
        drop(job);
        assert!(acquire(&reads, Queue::Jobs, "a", 1, now).is_some());
    }

    #[test]
    fn retries_of_one_dataset_have_half_of_the_places_of_retries() {
        let (reads, now) = (SlowReads::new(8, u64::MAX), Instant::now());
        let of = |dataset| acquire(&reads, Queue::Retries, dataset, 1, now);
        let jobs = [of("a"), of("a"), of("a"), of("b"), of("b"), of("c")];
        assert_eq!(jobs.each_ref().map(Option::is_some), [true, true, false, true, true, false]);
        assert!(matches!(reads.try_acquire(Queue::Retries, "a", 1, false, now), Acquire::ShareUsed));
        assert!(matches!(reads.try_acquire(Queue::Retries, "c", 1, false, now), Acquire::Full(None)));
        assert!(acquire(&reads, Queue::Jobs, "a", 1, now).is_some(), "new jobs have permits of their own");
    }

    #[test]
    fn slow_reads_hold_a_quarter_of_the_memory_and_then_leave() {
        let (reads, now) = (SlowReads::new(10, 400), Instant::now());
        let first = acquire(&reads, Queue::Jobs, "a", 60, now).unwrap();
        let _waiting = Waiting::new(&reads);
        assert!(acquire(&reads, Queue::Jobs, "a", 60, now + MIN_HOLD).is_none());
        assert!(first.displaced.is_cancelled());
        drop(first);
        assert!(acquire(&reads, Queue::Jobs, "a", 1000, now).is_some(), "one is always admitted");
    }

    #[test]
    fn what_is_slow_follows_the_time_that_reads_take() {
        let reads = SlowReads::new(1, 1);
        for _ in 0..1000 {
            reads.record(Duration::from_millis(200));
        }
        assert!((300..500).contains(&reads.threshold().as_millis()), "{:?}", reads.threshold());
        for _ in 0..1000 {
            reads.record(Duration::from_millis(1));
        }
        assert_eq!(reads.threshold(), THRESHOLD.0);
    }
}
