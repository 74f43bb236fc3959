//! Reads that take much longer than most: a store, or a part of it, that stalls must not hold the slots of all jobs.
//!
//! A job whose read is slow gives its slot back and goes on with a *place*. The number of places is bounded, and so are
//! the bytes of memory that slow reads hold. Where all places are taken, new jobs and retries differ:
//!
//! - A new job takes the place of the read that has waited longest, of the dataset with the most slow reads. That job
//!   moves to the stream of retries, where it has all the time that `s3.operation_timeout` gives it.
//! - A retry waits for a place, and one dataset gets half of them at most.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::queue::Queue;

/// A read is slow after twice the time within which nine of ten reads end, and between these two.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// What is taken for that time before anything was read, in seconds.
const FIRST_GUESS: f64 = 0.05;
/// Factors that follow the time of nine of ten reads: one read in ten raises it by as much as the others lower it.
const FOLLOW: (f64, f64) = (1.2, 0.98);
/// A slow read of a new job keeps its place for this long in any case.
const LEAST_STAY: Duration = Duration::from_secs(1);
/// How often it is logged that jobs are moved.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The slow reads of a worker. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct SlowReads(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    jobs: Capacity,
    retries: Capacity,
    state: Mutex<State>,
    /// A place was given back.
    changed: Notify,
}

/// What the slow reads of one queue may take up.
#[derive(Debug, Clone, Copy)]
struct Capacity {
    places: usize,
    bytes: u64,
}

#[derive(Debug)]
struct State {
    /// In the order in which they came.
    reads: BTreeMap<u64, SlowRead>,
    next: u64,
    /// New jobs that wait for a place.
    waiting: usize,
    /// The time within which nine of ten reads end, in seconds.
    usual: f64,
    moved: u64,
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
    Reading(CancellationToken),
    /// It was told to make budget.
    Leaving,
    /// The bytes are there; the job goes on.
    Read,
}

/// A job's place among the slow reads; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    reads: SlowReads,
    id: u64,
}

/// Why a slow read was broken off: the store did nothing against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokenOff {
    /// Other slow reads needed the place.
    #[error(
        "the store is slow, and the capacity for slow reads (worker.max_slow_reads) was needed by others: the job is read again apart from new ones"
    )]
    PlaceNeeded,
    /// The retries of this dataset have all places that they may have.
    #[error("the store is slow, and other retries of the dataset use its share of worker.max_slow_reads")]
    ShareUsed,
}

/// The reads of one job, which `exchange` its slot for a place once one of them is slow.
pub(crate) struct Watch<'a, F: FnMut(Place)> {
    reads: &'a SlowReads,
    queue: Queue,
    dataset: &'a str,
    exchange: F,
    place: Option<(u64, CancellationToken)>,
}

enum Entry {
    Entered(Place, CancellationToken),
    ShareUsed,
    /// Wait until something changes, or until then.
    Full(Option<Instant>),
}

impl SlowReads {
    /// At most `places` for new jobs and half as many for retries; each may hold a quarter of `bytes`.
    pub(crate) fn new(places: usize, bytes: u64) -> Self {
        let bytes = bytes / 4;
        let state = State { reads: BTreeMap::new(), next: 0, waiting: 0, usual: FIRST_GUESS, moved: 0, logged: None };
        Self(Arc::new(Shared {
            jobs: Capacity { places, bytes },
            retries: Capacity { places: retry_places(places), bytes },
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }

    /// Watches the reads of one job.
    pub(crate) fn watch<'a, F: FnMut(Place)>(&'a self, queue: Queue, dataset: &'a str, exchange: F) -> Watch<'a, F> {
        Watch { reads: self, queue, dataset, exchange, place: None }
    }

    fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.state().usual * 2.0).clamp(PATIENCE.0, PATIENCE.1)
    }

    /// A read took this long.
    fn saw(&self, took: Duration) {
        let mut state = self.state();
        let factor = if took.as_secs_f64() > state.usual { FOLLOW.0 } else { FOLLOW.1 };
        state.usual = (state.usual * factor).clamp(PATIENCE.0.as_secs_f64() / 2.0, PATIENCE.1.as_secs_f64() / 2.0);
    }

    async fn enter(&self, queue: Queue, dataset: &str, bytes: u64) -> Result<(Place, CancellationToken), BrokenOff> {
        let mut waiting = None;
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            let until = match self.try_enter(queue, dataset, bytes, waiting.is_some(), Instant::now()) {
                Entry::Entered(place, interrupt) => return Ok((place, interrupt)),
                Entry::ShareUsed => return Err(BrokenOff::ShareUsed),
                Entry::Full(until) => until,
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

    fn try_enter(&self, queue: Queue, dataset: &str, bytes: u64, may_displace: bool, now: Instant) -> Entry {
        let mut state = self.state();
        let capacity = if queue == Queue::Jobs { self.0.jobs } else { self.0.retries };
        let mine = || state.reads.values().filter(|read| read.queue == queue);
        let (places, used) = (mine().count(), mine().map(|read| read.bytes).sum::<u64>());
        let of_dataset = mine().filter(|read| read.dataset == dataset).count();
        if queue == Queue::Retries && of_dataset >= capacity.places.div_ceil(2) {
            return Entry::ShareUsed;
        }
        if places < capacity.places && (places == 0 || used.saturating_add(bytes) <= capacity.bytes) {
            let (id, interrupt) = (state.next, CancellationToken::new());
            state.next += 1;
            let phase = Phase::Reading(interrupt.clone());
            let read = SlowRead { queue, dataset: dataset.to_owned(), bytes, since: now, phase };
            state.reads.insert(id, read);
            return Entry::Entered(Place { reads: self.clone(), id }, interrupt);
        }
        if queue == Queue::Retries || !may_displace {
            return Entry::Full(None);
        }
        state.displace(now)
    }

    fn end_of_read(&self, id: u64) {
        if let Some(read) = self.state().reads.get_mut(&id)
            && let Phase::Reading(_) = read.phase
        {
            read.phase = Phase::Read;
            // From now on it holds memory as any other job does.
            read.bytes = 0;
        }
        self.0.changed.notify_waiters();
    }

    /// What is kept here is whole at every moment, so a panic elsewhere does no harm to it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many retries may wait for a slow store at once.
pub(crate) fn retry_places(places: usize) -> usize {
    (places / 2).max(1)
}

impl State {
    /// Tells a slow read of a new job to leave, unless enough of them are about to.
    fn displace(&mut self, now: Instant) -> Entry {
        let reads = || self.reads.iter().filter(|(_, read)| read.queue == Queue::Jobs);
        let leaving = reads().filter(|(_, read)| matches!(read.phase, Phase::Leaving)).count();
        if leaving >= self.waiting {
            return Entry::Full(None);
        }
        let mut of_dataset: BTreeMap<&str, usize> = BTreeMap::new();
        let reading = || reads().filter(|(_, read)| matches!(read.phase, Phase::Reading(_)));
        for (_, read) in reading() {
            *of_dataset.entry(&read.dataset).or_default() += 1;
        }
        let may_leave = |read: &SlowRead| read.since + LEAST_STAY;
        // Of the dataset with the most; ids grow, so the least is the oldest.
        let oldest = reading()
            .filter(|(_, read)| may_leave(read) <= now)
            .max_by_key(|(id, read)| (of_dataset.get(read.dataset.as_str()).copied(), std::cmp::Reverse(**id)))
            .map(|(id, _)| *id);
        let Some(id) = oldest else {
            return Entry::Full(reading().map(|(_, read)| may_leave(read)).min());
        };
        self.tell_to_leave(id);
        Entry::Full(None)
    }

    fn tell_to_leave(&mut self, id: u64) {
        let Some(read) = self.reads.get_mut(&id) else { return };
        if let Phase::Reading(interrupt) = std::mem::replace(&mut read.phase, Phase::Leaving) {
            interrupt.cancel();
        }
        self.moved += 1;
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY) {
            self.logged = Some(Instant::now());
            tracing::warn!(
                moved = self.moved,
                dataset = read.dataset,
                "more reads from the store are slow than worker.max_slow_reads: the slowest jobs are moved to the stream of retries, so that new jobs go on"
            );
        }
    }
}

/// A new job that waits for a place.
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

impl<F: FnMut(Place)> Watch<'_, F> {
    /// Waits for a read that holds `bytes` of memory; a slow one costs the job its slot, not its turn.
    ///
    /// # Errors
    /// [`BrokenOff`].
    pub(crate) async fn over<T, E>(
        &mut self,
        bytes: u64,
        read: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, BrokenOff> {
        let started = Instant::now();
        tokio::pin!(read);
        let done = match &self.place {
            Some((_, interrupt)) => tokio::select! {
                biased;
                done = &mut read => done,
                () = interrupt.cancelled() => return Err(BrokenOff::PlaceNeeded),
            },
            None => tokio::select! {
                biased;
                done = &mut read => done,
                entered = self.when_slow(bytes) => {
                    let (place, interrupt) = entered?;
                    self.place = Some((place.id, interrupt.clone()));
                    (self.exchange)(place);
                    tokio::select! {
                        biased;
                        done = &mut read => done,
                        () = interrupt.cancelled() => return Err(BrokenOff::PlaceNeeded),
                    }
                }
            },
        };
        if done.is_ok() {
            self.reads.saw(started.elapsed());
        }
        Ok(done)
    }

    async fn when_slow(&self, bytes: u64) -> Result<(Place, CancellationToken), BrokenOff> {
        tokio::time::sleep(self.reads.patience()).await;
        self.reads.enter(self.queue, self.dataset, bytes).await
    }
}

impl<F: FnMut(Place)> Drop for Watch<'_, F> {
    fn drop(&mut self) {
        if let Some((id, _)) = &self.place {
            self.reads.end_of_read(*id);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.reads.state().reads.remove(&self.id);
        self.reads.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Job {
        place: Place,
        interrupt: CancellationToken,
    }

    /// A slow read that is to have a place at once.
    fn enters(reads: &SlowReads, queue: Queue, dataset: &str, bytes: u64, now: Instant) -> Option<Job> {
        match reads.try_enter(queue, dataset, bytes, true, now) {
            Entry::Entered(place, interrupt) => Some(Job { place, interrupt }),
            Entry::ShareUsed | Entry::Full(_) => None,
        }
    }

    #[test]
    fn the_longest_waiting_of_the_dataset_with_most_makes_room_for_a_new_slow_read() {
        let (reads, now) = (SlowReads::new(3, u64::MAX), Instant::now());
        let of = |dataset, now| enters(&reads, Queue::Jobs, dataset, 1, now);
        let jobs: Vec<Job> = ["a", "b", "b"].iter().map(|dataset| of(dataset, now).unwrap()).collect();
        let told = || jobs.iter().map(|job| job.interrupt.is_cancelled()).collect::<Vec<_>>();
        let waiting = Waiting::new(&reads);
        let soon = now + LEAST_STAY / 2;
        let Entry::Full(until) = reads.try_enter(Queue::Jobs, "c", 1, true, soon) else { panic!("it is full") };
        assert_eq!((until, told()), (Some(now + LEAST_STAY), vec![false; 3]), "each has its place for a while");
        let later = now + LEAST_STAY;
        assert!(of("c", later).is_none());
        assert_eq!(told(), [false, true, false]);
        assert!(of("c", later).is_none());
        assert_eq!(told(), [false, true, false], "one leaves for one that waits");
        let mut jobs = jobs;
        drop(jobs.remove(1));
        assert!(of("c", later).is_some());
        drop(waiting);
    }

    #[test]
    fn a_job_whose_bytes_are_there_keeps_its_place_to_its_end() {
        let (reads, now) = (SlowReads::new(1, u64::MAX), Instant::now());
        let job = enters(&reads, Queue::Jobs, "a", 1, now).unwrap();
        reads.end_of_read(job.place.id);
        let _waiting = Waiting::new(&reads);
        assert!(enters(&reads, Queue::Jobs, "a", 1, now + LEAST_STAY).is_none());
        assert!(!job.interrupt.is_cancelled());
        drop(job);
        assert!(enters(&reads, Queue::Jobs, "a", 1, now).is_some());
    }

    #[test]
    fn retries_of_one_dataset_have_half_of_the_places_of_retries() {
        let (reads, now) = (SlowReads::new(8, u64::MAX), Instant::now());
        let of = |dataset| enters(&reads, Queue::Retries, dataset, 1, now);
        let jobs = [of("a"), of("a"), of("a"), of("b"), of("b"), of("c")];
        assert_eq!(jobs.each_ref().map(Option::is_some), [true, true, false, true, true, false]);
        assert!(matches!(reads.try_enter(Queue::Retries, "a", 1, false, now), Entry::ShareUsed));
        assert!(matches!(reads.try_enter(Queue::Retries, "c", 1, false, now), Entry::Full(None)));
        assert!(enters(&reads, Queue::Jobs, "a", 1, now).is_some(), "new jobs have places of their own");
    }

    #[test]
    fn slow_reads_hold_a_quarter_of_the_memory_and_then_leave() {
        let (reads, now) = (SlowReads::new(10, 400), Instant::now());
        let first = enters(&reads, Queue::Jobs, "a", 60, now).unwrap();
        let _waiting = Waiting::new(&reads);
        assert!(enters(&reads, Queue::Jobs, "a", 60, now + LEAST_STAY).is_none());
        assert!(first.interrupt.is_cancelled());
        drop(first);
        assert!(enters(&reads, Queue::Jobs, "a", 1000, now).is_some(), "one is always let in");
    }

    #[test]
    fn what_is_slow_follows_the_time_that_reads_take() {
        let reads = SlowReads::new(1, 1);
        for _ in 0..1000 {
            reads.saw(Duration::from_millis(200));
        }
        assert!((300..500).contains(&reads.patience().as_millis()), "{:?}", reads.patience());
        for _ in 0..1000 {
            reads.saw(Duration::from_millis(1));
        }
        assert_eq!(reads.patience(), PATIENCE.0);
    }
}
