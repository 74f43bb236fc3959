//! How many jobs an intake may have in hand, and a share of them for retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Part of the slots that retries may use while there are new jobs.
const SHARE: usize = 4;
/// How often retries that use their share look whether new jobs have run out.
const LOOK: Duration = Duration::from_millis(100);

/// The slots of one intake.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    all: usize,
    /// Slots that may be in use while there are new jobs.
    share: usize,
    /// Whether there are none, as far as is known.
    no_new_jobs: Arc<AtomicBool>,
}

impl Slots {
    /// Slots for so many new jobs.
    pub(crate) fn new(all: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(all)), all, share: all, no_new_jobs: Arc::default() }
    }

    /// As many for retries, in addition to these for new jobs: a quarter of them while there are new jobs.
    pub(crate) fn for_retries(&self) -> Self {
        let (all, share) = (self.all, (self.all / SHARE).max(1));
        Self { free: Arc::new(Semaphore::new(all)), all, share, no_new_jobs: Arc::clone(&self.no_new_jobs) }
    }

    /// Tells whether there are new jobs.
    pub(crate) fn tell_new_jobs(&self, are_there: bool) {
        self.no_new_jobs.store(!are_there, Ordering::Relaxed);
    }

    /// All slots that may be used now, as soon as there is one.
    pub(crate) async fn take(&self) -> Vec<OwnedSemaphorePermit> {
        loop {
            // Fails only if the semaphore is closed, which nobody does.
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
            tokio::time::sleep(LOOK).await;
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
        jobs.tell_new_jobs(true);
        let (all, share) = (jobs.take().await, retries.take().await);
        assert_eq!((all.len(), share.len()), (8, 2));
        assert!(jobs.take().now_or_never().is_none() && retries.take().now_or_never().is_none());
        jobs.tell_new_jobs(false);
        let rest = retries.take().await;
        assert_eq!(rest.len(), 6);
        jobs.tell_new_jobs(true);
        drop(rest);
        assert!(retries.take().now_or_never().is_none(), "two are in use");
        drop(share);
        assert_eq!(retries.take().await.len(), 2);
        assert_eq!(Slots::new(1).for_retries().take().await.len(), 1);
    }
}
