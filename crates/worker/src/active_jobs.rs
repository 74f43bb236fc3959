//! The jobs that this worker is processing, so that a second delivery of one of them is ignored.
//!
//! The server identifies progress and acknowledgements by the job's stream sequence, so those sent for the first
//! delivery also count for the second one.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::delivery_info::DeliveryInfo;

/// A job's sequence and the time of its publication: a recreated stream assigns the same sequences again.
type Key = (u64, u64);

/// The active jobs. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ActiveJobs(Arc<Mutex<HashSet<Key>>>);

/// An active job. Dropping it removes the job from the set.
#[derive(Debug)]
pub(crate) struct ActiveJob {
    all: ActiveJobs,
    key: Key,
}

impl ActiveJobs {
    /// Adds a job. `None` if it is already active.
    pub(crate) fn insert(&self, job: &DeliveryInfo) -> Option<ActiveJob> {
        let key = (job.sequence, job.published_nanos);
        self.jobs().insert(key).then(|| ActiveJob { all: self.clone(), key })
    }

    /// The set is consistent after every operation, so a poisoned lock is safe to use.
    fn jobs(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ActiveJob {
    fn drop(&mut self) {
        self.all.jobs().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_active_once_until_it_is_dropped() {
        let info = |sequence| DeliveryInfo { stream: "JOBS".into(), sequence, deliveries: 1, published_nanos: 7 };
        let all = ActiveJobs::default();
        let first = all.insert(&info(1)).unwrap();
        assert!(all.insert(&info(1)).is_none());
        assert!(all.insert(&info(2)).is_some());
        assert!(all.insert(&DeliveryInfo { published_nanos: 8, ..info(1) }).is_some());
        drop(first);
        assert!(all.insert(&info(1)).is_some());
    }
}
