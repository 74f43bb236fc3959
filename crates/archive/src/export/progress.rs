//! How far an export is, for those who watch it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of a running export.
#[derive(Debug, Default)]
pub struct Progress {
    messages: AtomicU64,
    shards: AtomicU64,
    sequence: AtomicU64,
    last: AtomicU64,
}

/// The counts at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Messages read by this run.
    pub messages: u64,
    /// Shards finished by this run.
    pub shards: u64,
    /// The last sequence that was read.
    pub sequence: u64,
    /// The last sequence of the stream, or of the export.
    pub last: u64,
}

impl Progress {
    /// The counts now.
    pub fn snapshot(&self) -> Snapshot {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        Snapshot {
            messages: load(&self.messages),
            shards: load(&self.shards),
            sequence: load(&self.sequence),
            last: load(&self.last),
        }
    }

    pub(crate) fn message_at(&self, sequence: u64) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.sequence.store(sequence, Ordering::Relaxed);
    }

    pub(crate) fn shard_done(&self) {
        self.shards.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ends_at(&self, last: u64) {
        self.last.store(last, Ordering::Relaxed);
    }
}
