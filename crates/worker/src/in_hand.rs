//! The jobs that this worker has in hand, so that one that is handed out to it a second time is passed over.
//!
//! The server takes signs of life and acknowledgements by the job's sequence in its stream: those of the first delivery
//! count for the second one too.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::delivery::DeliveryFacts;

/// A job's sequence, and when it was published: the stream may have been made anew.
type Key = (u64, u64);

/// The jobs in hand. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct InHand(Arc<Mutex<HashSet<Key>>>);

/// A job in hand; it is no longer when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    all: InHand,
    key: Key,
}

impl InHand {
    /// Takes a job in hand; `None` if it is already.
    pub(crate) fn take(&self, job: &DeliveryFacts) -> Option<Held> {
        let key = (job.sequence, job.published_nanos);
        self.jobs().insert(key).then(|| Held { all: self.clone(), key })
    }

    /// The set is whole at every moment, so a panic elsewhere does no harm to it.
    fn jobs(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.jobs().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_in_hand_once_until_it_is_let_go() {
        let facts = |sequence| DeliveryFacts { stream: "JOBS".into(), sequence, attempt: 1, published_nanos: 7 };
        let all = InHand::default();
        let first = all.take(&facts(1)).unwrap();
        assert!(all.take(&facts(1)).is_none());
        assert!(all.take(&facts(2)).is_some());
        assert!(all.take(&DeliveryFacts { published_nanos: 8, ..facts(1) }).is_some());
        drop(first);
        assert!(all.take(&facts(1)).is_some());
    }
}
