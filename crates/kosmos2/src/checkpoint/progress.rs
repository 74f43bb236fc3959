//! How much of a checkpoint has been read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much of a checkpoint has been read. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct LoadProgress(Arc<Bytes>);

#[derive(Debug, Default)]
struct Bytes {
    read: AtomicU64,
    total: AtomicU64,
}

impl LoadProgress {
    /// The part of the stored bytes that has been read, in percent from 0 to 100. Tensors that the model does not use
    /// are never read, so the end may be below 100.
    pub fn percent(&self) -> u64 {
        let (read, total) = (self.0.read.load(Ordering::Relaxed), self.0.total.load(Ordering::Relaxed));
        read.saturating_mul(100).checked_div(total).map_or(0, |percent| percent.min(100))
    }

    pub(super) fn start(&self, total: u64) {
        self.0.read.store(0, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
    }

    pub(super) fn add(&self, bytes: u64) {
        self.0.read.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentage_follows_the_bytes_and_is_0_before_the_size_is_known() {
        let progress = LoadProgress::default();
        progress.add(5);
        assert_eq!(progress.percent(), 0);
        progress.start(200);
        assert_eq!(progress.percent(), 0);
        progress.add(81);
        assert_eq!(progress.clone().percent(), 40);
        progress.add(500);
        assert_eq!(progress.percent(), 100);
    }
}
