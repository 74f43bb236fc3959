//! Job slots: permits for active jobs, and the share of them that retries may use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Retries may use one in this many of their slots while new jobs are waiting.
const RETRY_SHARE: usize = 4;
/// How often retries that have used up their share check whether new jobs are still waiting.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The job slots of one intake.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    all: usize,
    /// Slots that may be in use while new jobs are waiting.
    share: usize,
    /// Set when the jobs stream last had no new jobs.
    no_new_jobs: Arc<AtomicBool>,
}

impl Slots {
    /// Slots for new jobs.
    pub(crate) fn new(all: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(all)), all, share: all, no_new_jobs: Arc::default() }
    }

    /// As many additional slots for retries. They use a quarter of these while new jobs are waiting.
    pub(crate) fn for_retries(&self) -> Self {
        let (all, share) = (self.all, (self.all / RETRY_SHARE).max(1));
        Self { free: Arc::new(Semaphore::new(all)), all, share, no_new_jobs: Arc::clone(&self.no_new_jobs) }
    }

    /// Records whether new jobs are waiting in the jobs stream.
    pub(crate) fn set_new_jobs_waiting(&self, waiting: bool) {
        self.no_new_jobs.store(!waiting, Ordering::Relaxed);
    }

    /// Waits until at least one slot may be used, and acquires all that may be used.
    pub(crate) async fn acquire_free(&self) -> Vec<OwnedSemaphorePermit> {
        loop {
            // The semaphore is never closed.
            let Ok(first) = Arc::clone(&self.free).acquire_owned().await else {
                return std::future::pending().await;
            };
            let allowed = if self.no_new_jobs.load(Ordering::Relaxed) { self.all } else { self.share };
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
        let retries = jobs.for_retries();
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
        assert_eq!(Slots::new(1).for_retries().acquire_free().await.len(), 1);
    }
}
