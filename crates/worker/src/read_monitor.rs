//! Monitors the reads of one job: once one of them is slow, the job exchanges its slot for a permit for a slow read.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::queue::Queue;
use crate::slow_reads::{SlowReadAborted, SlowReadPermit, SlowReads};

/// Monitors the reads of one job.
pub(crate) struct ReadMonitor<'a, F: FnMut(SlowReadPermit)> {
    reads: &'a SlowReads,
    queue: Queue,
    dataset: &'a str,
    exchange: F,
    permit: Option<(u64, CancellationToken)>,
    reading_time: Duration,
}

impl<'a, F: FnMut(SlowReadPermit)> ReadMonitor<'a, F> {
    /// A monitor for a job, which calls `exchange` with the permit that takes the place of the job's slot.
    pub(crate) fn new(reads: &'a SlowReads, queue: Queue, dataset: &'a str, exchange: F) -> Self {
        Self { reads, queue, dataset, exchange, permit: None, reading_time: Duration::ZERO }
    }

    /// Awaits a read that holds `bytes` of memory.
    ///
    /// # Errors
    /// [`SlowReadAborted`].
    pub(crate) async fn run<T, E>(
        &mut self,
        bytes: u64,
        read: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, SlowReadAborted> {
        let started = Instant::now();
        let done = self.watch(bytes, read).await;
        self.reading_time += started.elapsed();
        if let Ok(Ok(_)) = done {
            self.reads.record(started.elapsed());
        }
        done
    }

    /// The total time of the reads.
    pub(crate) fn reading_time(&self) -> Duration {
        self.reading_time
    }

    async fn watch<T, E>(
        &mut self,
        bytes: u64,
        read: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, SlowReadAborted> {
        tokio::pin!(read);
        let done = match &self.permit {
            Some((_, displaced)) => tokio::select! {
                biased;
                done = &mut read => done,
                () = displaced.cancelled() => return Err(SlowReadAborted::Displaced),
            },
            None => tokio::select! {
                biased;
                done = &mut read => done,
                acquired = self.acquire_when_slow(bytes) => {
                    let (permit, displaced) = acquired?;
                    self.permit = Some((permit.id(), displaced.clone()));
                    (self.exchange)(permit);
                    tokio::select! {
                        biased;
                        done = &mut read => done,
                        () = displaced.cancelled() => return Err(SlowReadAborted::Displaced),
                    }
                }
            },
        };
        Ok(done)
    }

    async fn acquire_when_slow(&self, bytes: u64) -> Result<(SlowReadPermit, CancellationToken), SlowReadAborted> {
        tokio::time::sleep(self.reads.threshold()).await;
        self.reads.acquire(self.queue, self.dataset, bytes).await
    }
}

impl<F: FnMut(SlowReadPermit)> Drop for ReadMonitor<'_, F> {
    fn drop(&mut self) {
        if let Some((id, _)) = &self.permit {
            self.reads.end_read(*id);
        }
    }
}
