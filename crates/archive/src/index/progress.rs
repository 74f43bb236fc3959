//! How far indexing is, for those who watch it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::rows::Counts;

/// Counts of a run. They grow with each commit.
#[derive(Debug, Default)]
pub struct Progress {
    read: AtomicU64,
    annotations: AtomicU64,
    results: AtomicU64,
    entities: AtomicU64,
    boxes: AtomicU64,
    unreadable: AtomicU64,
    commits: AtomicU64,
    sequence: AtomicU64,
    last: AtomicU64,
}

/// The counts at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Messages that were read and committed.
    pub read: u64,
    /// Annotations that are new in the database. The others were there already.
    pub annotations: u64,
    /// Results of the new annotations.
    pub results: u64,
    /// Entities of the new annotations.
    pub entities: u64,
    /// Boxes of the new annotations.
    pub boxes: u64,
    /// Messages that are not annotations.
    pub unreadable: u64,
    /// Transactions.
    pub commits: u64,
    /// The sequence up to which the stream was read.
    pub sequence: u64,
    /// The last sequence of the stream.
    pub last: u64,
}

impl Snapshot {
    /// Annotations that were in the database already.
    pub fn repeats(&self) -> u64 {
        self.read.saturating_sub(self.annotations).saturating_sub(self.unreadable)
    }
}

impl Progress {
    /// The counts now.
    pub fn snapshot(&self) -> Snapshot {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        Snapshot {
            read: load(&self.read),
            annotations: load(&self.annotations),
            results: load(&self.results),
            entities: load(&self.entities),
            boxes: load(&self.boxes),
            unreadable: load(&self.unreadable),
            commits: load(&self.commits),
            sequence: load(&self.sequence),
            last: load(&self.last),
        }
    }

    pub(crate) fn committed(&self, read: u64, unreadable: u64, new: Counts) {
        let add = |value: &AtomicU64, count: u64| value.fetch_add(count, Ordering::Relaxed);
        add(&self.read, read);
        add(&self.unreadable, unreadable);
        add(&self.annotations, new.annotations);
        add(&self.results, new.results);
        add(&self.entities, new.entities);
        add(&self.boxes, new.boxes);
        add(&self.commits, 1);
    }

    pub(crate) fn read_to(&self, sequence: u64) {
        self.sequence.store(sequence, Ordering::Relaxed);
    }

    pub(crate) fn ends_at(&self, last: u64) {
        self.last.store(last, Ordering::Relaxed);
    }
}
