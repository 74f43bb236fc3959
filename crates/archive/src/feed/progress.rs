//! Progress of a running feeder.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::records::Counts;
use crate::source::{Outage, Source};

/// The progress of a running feeder, which can be read at any time.
#[derive(Debug, Default)]
pub struct Progress {
    seen: AtomicU64,
    jobs: AtomicU64,
    bytes: AtomicU64,
    lanes: AtomicUsize,
    lanes_done: AtomicUsize,
    lanes_waiting: AtomicUsize,
    is_paused: AtomicBool,
    /// Whether the stores of the sources answer.
    stores: Mutex<Vec<Outage>>,
}

/// The progress at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Counts, including those of earlier feeders.
    pub counts: Counts,
    /// Number of lanes; 0 until the source is divided.
    pub lanes: usize,
    /// Lanes that have been read to their end.
    pub lanes_done: usize,
    /// Lanes that wait because the maximum number of jobs is waiting in the stream.
    pub lanes_waiting: usize,
    /// Whether the dataset is paused.
    pub is_paused: bool,
    /// Whether requests to the store fail and are tried again.
    pub waits_for_store: bool,
}

impl Progress {
    /// The progress now.
    pub fn snapshot(&self) -> Snapshot {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        Snapshot {
            counts: Counts { seen: load(&self.seen), jobs: load(&self.jobs), bytes: load(&self.bytes) },
            lanes: self.lanes.load(Ordering::Relaxed),
            lanes_done: self.lanes_done.load(Ordering::Relaxed),
            lanes_waiting: self.lanes_waiting.load(Ordering::Relaxed),
            is_paused: self.is_paused.load(Ordering::Relaxed),
            // A list of handles is consistent at any time.
            waits_for_store: self.stores.lock().unwrap_or_else(PoisonError::into_inner).iter().any(Outage::is_on),
        }
    }

    pub(crate) fn add(&self, counts: Counts) {
        self.seen.fetch_add(counts.seen, Ordering::Relaxed);
        self.jobs.fetch_add(counts.jobs, Ordering::Relaxed);
        self.bytes.fetch_add(counts.bytes, Ordering::Relaxed);
    }

    pub(crate) fn watch_stores(&self, sources: &[Source]) {
        let stores = sources.iter().map(|source| source.outage().clone()).collect();
        *self.stores.lock().unwrap_or_else(PoisonError::into_inner) = stores;
    }

    pub(crate) fn set_lanes(&self, lanes: usize) {
        self.lanes.store(lanes, Ordering::Relaxed);
    }

    pub(crate) fn lane_done(&self) {
        self.lanes_done.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.is_paused.store(paused, Ordering::Relaxed);
    }

    /// Counts a lane as waiting until the guard is dropped.
    pub(crate) fn waiting(&self) -> WaitingLane<'_> {
        self.lanes_waiting.fetch_add(1, Ordering::Relaxed);
        WaitingLane(self)
    }
}

/// A lane that waits.
pub(crate) struct WaitingLane<'a>(&'a Progress);

impl Drop for WaitingLane<'_> {
    fn drop(&mut self) {
        self.0.lanes_waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
