//! How far a feeder is, for those who watch it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::plan::Counts;

/// Counts of a running feeder.
#[derive(Debug, Default)]
pub struct Progress {
    seen: AtomicU64,
    jobs: AtomicU64,
    bytes: AtomicU64,
    lanes: AtomicUsize,
    lanes_done: AtomicUsize,
    lanes_waiting: AtomicUsize,
}

/// The counts at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What came of the source, earlier feeders included.
    pub counts: Counts,
    /// Lanes; 0 while the source is being sampled.
    pub lanes: usize,
    /// Lanes that have been read to their end.
    pub lanes_done: usize,
    /// Lanes that wait because enough jobs of the dataset are in the stream.
    pub lanes_waiting: usize,
}

impl Progress {
    /// The counts now.
    pub fn snapshot(&self) -> Snapshot {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        Snapshot {
            counts: Counts { seen: load(&self.seen), jobs: load(&self.jobs), bytes: load(&self.bytes) },
            lanes: self.lanes.load(Ordering::Relaxed),
            lanes_done: self.lanes_done.load(Ordering::Relaxed),
            lanes_waiting: self.lanes_waiting.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn add(&self, counts: Counts) {
        self.seen.fetch_add(counts.seen, Ordering::Relaxed);
        self.jobs.fetch_add(counts.jobs, Ordering::Relaxed);
        self.bytes.fetch_add(counts.bytes, Ordering::Relaxed);
    }

    pub(crate) fn has_lanes(&self, lanes: usize) {
        self.lanes.store(lanes, Ordering::Relaxed);
    }

    pub(crate) fn lane_done(&self) {
        self.lanes_done.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn waits(&self, waits: bool) {
        if waits {
            self.lanes_waiting.fetch_add(1, Ordering::Relaxed);
        } else {
            self.lanes_waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
