//! What a worker has done.

use crate::settle::Settled;

/// What a worker has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// Jobs whose annotation is in its stream.
    pub finished: u64,
    /// The part of `finished` whose annotation was in its stream from an earlier delivery.
    pub duplicates: u64,
    /// Jobs whose failure is in its stream.
    pub failed: u64,
    /// Deliveries that were requeued: retried, parked, released, or left to other workers.
    pub retried: u64,
    /// Jobs that had not reached the model at shutdown and were released at once.
    pub released: u64,
    /// Pull requests that were refused or lost.
    pub pulls_lost: u64,
}

impl WorkerReport {
    /// Counts a settled delivery.
    pub(crate) fn count(&mut self, settled: Settled) {
        match settled {
            Settled::Finished { duplicate } => {
                self.finished += 1;
                self.duplicates += u64::from(duplicate);
            }
            Settled::Failed => self.failed += 1,
            Settled::Requeued | Settled::EngineStopped => self.retried += 1,
            Settled::Released => self.released += 1,
        }
    }
}
