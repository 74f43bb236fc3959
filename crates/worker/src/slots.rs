//! Job slots: permits for active jobs, and the share of them that each intake may use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::queue::ConsumerKind;

/// Retries may use one in this many of their slots while new jobs are waiting.
const RETRY_SHARE: usize = 4;
/// How often an intake that has used up its share checks whether other jobs are still waiting.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The job slots of one intake.
#[derive(Debug)]
pub(crate) struct Slots {
    kind: ConsumerKind,
    free: Arc<Semaphore>,
    all: usize,
    /// Set when the jobs stream last had no new jobs.
    no_new_jobs: Arc<AtomicBool>,
    /// Set while more urgent jobs are waiting than this worker has taken.
    urgent_waiting: Arc<AtomicBool>,
}

impl Slots {
    /// Slots for new jobs.
    pub(crate) fn new(all: usize) -> Self {
        let free = Arc::new(Semaphore::new(all));
        Self { kind: ConsumerKind::Jobs, free, all, no_new_jobs: Arc::default(), urgent_waiting: Arc::default() }
    }

    /// As many additional slots for another consumer: for retries, which use a quarter of these while new jobs are
    /// waiting, or for urgent jobs. While urgent jobs are waiting, no slots are given to new jobs that are not urgent.
    pub(crate) fn for_consumer(&self, kind: ConsumerKind) -> Self {
        let (no_new_jobs, urgent_waiting) = (Arc::clone(&self.no_new_jobs), Arc::clone(&self.urgent_waiting));
        Self { kind, free: Arc::new(Semaphore::new(self.all)), all: self.all, no_new_jobs, urgent_waiting }
    }

    /// Records whether new jobs are waiting in the jobs stream.
    pub(crate) fn set_new_jobs_waiting(&self, waiting: bool) {
        self.no_new_jobs.store(!waiting, Ordering::Relaxed);
    }

    /// Records whether urgent jobs are waiting that this worker has not taken.
    pub(crate) fn set_urgent_waiting(&self, waiting: bool) {
        self.urgent_waiting.store(waiting, Ordering::Relaxed);
    }

    /// The number of slots that may be in use now.
    fn allowed(&self) -> usize {
        match self.kind {
            ConsumerKind::Jobs if self.urgent_waiting.load(Ordering::Relaxed) => 0,
            ConsumerKind::Retries if !self.no_new_jobs.load(Ordering::Relaxed) => (self.all / RETRY_SHARE).max(1),
            ConsumerKind::Jobs | ConsumerKind::Urgent | ConsumerKind::Retries => self.all,
        }
    }

    /// Waits until at least one slot may be used, and acquires all that may be used.
    pub(crate) async fn acquire_free(&self) -> Vec<OwnedSemaphorePermit> {
        loop {
            // The semaphore is never closed.
            let Ok(first) = Arc::clone(&self.free).acquire_owned().await else {
                return std::future::pending().await;
            };
            let allowed = self.allowed();
            let used = self.all.saturating_sub(self.free.available_permits() + 1);
            if used < allowed {
                let others = std::iter::from_fn(|| Arc::clone(&self.free).try_acquire_owned().ok());
                return std::iter::once(first).chain(others).take(allowed - used).collect();
            }
            drop(first);
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn retries_use_a_share_of_slots_of_their_own_until_new_jobs_run_out() {
        let jobs = Slots::new(8);
        let retries = jobs.for_consumer(ConsumerKind::Retries);
        jobs.set_new_jobs_waiting(true);
        let (all, share) = (jobs.acquire_free().await, retries.acquire_free().await);
        assert_eq!((all.len(), share.len()), (8, 2));
        assert!(jobs.acquire_free().now_or_never().is_none() && retries.acquire_free().now_or_never().is_none());
        jobs.set_new_jobs_waiting(false);
        let rest = retries.acquire_free().await;
        assert_eq!(rest.len(), 6);
        jobs.set_new_jobs_waiting(true);
        drop(rest);
        assert!(retries.acquire_free().now_or_never().is_none(), "two are in use");
        drop(share);
        assert_eq!(retries.acquire_free().await.len(), 2);
        assert_eq!(Slots::new(1).for_consumer(ConsumerKind::Retries).acquire_free().await.len(), 1);
    }

    #[tokio::test]
    async fn new_jobs_get_no_slots_while_urgent_jobs_are_waiting() {
        let jobs = Slots::new(4);
        let urgent = jobs.for_consumer(ConsumerKind::Urgent);
        urgent.set_urgent_waiting(true);
        assert!(jobs.acquire_free().now_or_never().is_none());
        assert_eq!(urgent.acquire_free().await.len(), 4, "they have slots of their own");
        urgent.set_urgent_waiting(false);
        assert_eq!(jobs.acquire_free().await.len(), 4);
    }
}
