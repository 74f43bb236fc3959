//! Limits the number of jobs of a dataset that wait in the stream, so that the source, not the stream, is the queue.

use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::progress::Progress;
use crate::pool::{PoolError, count};

/// How often jobs are counted while the maximum is reached.
const COUNT_INTERVAL: Duration = Duration::from_millis(500);
/// How often retries are counted: each has a subject of its own, so that the response is large.
const RETRIES_INTERVAL: Duration = Duration::from_secs(5);

/// Allows jobs to be stored while fewer than `max_waiting` wait.
#[derive(Debug)]
pub(crate) struct Watermark {
    /// The jobs, with their subject.
    jobs: (Stream, String),
    /// The retries, with their subject.
    retries: (Stream, String),
    max_waiting: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// An upper bound on the jobs that wait, retries included, or are being stored: jobs that workers have taken since the
    /// last count are included.
    waiting: u64,
    /// Jobs that are being stored.
    unconfirmed: u64,
    /// Retries at the time of their last count.
    retries: u64,
    retries_counted: Option<Instant>,
}

impl Watermark {
    /// Jobs and retries are streams with the subjects of the dataset.
    pub(crate) fn new(jobs: (Stream, String), retries: (Stream, String), max_waiting: u64) -> Self {
        let state = State { waiting: u64::MAX, unconfirmed: 0, retries: 0, retries_counted: None };
        Self { jobs, retries, max_waiting, state: Mutex::new(state) }
    }

    /// Waits until this many more jobs may be stored.
    pub(crate) async fn reserve(&self, jobs: u64, progress: &Progress) {
        let mut waiting = None;
        loop {
            {
                let mut state = self.state.lock().await;
                let fits = |state: &State| state.waiting.checked_add(jobs).is_some_and(|sum| sum <= self.max_waiting);
                if !fits(&state) {
                    match self.count(&mut state).await {
                        // Jobs that are stored during the count may be counted twice, which only delays the next ones.
                        Ok(counted) => state.waiting = counted.saturating_add(state.unconfirmed),
                        Err(error) => {
                            tracing::warn!("the waiting jobs could not be counted, trying again: {error}");
                        }
                    }
                }
                if fits(&state) {
                    state.waiting += jobs;
                    state.unconfirmed += jobs;
                    return;
                }
            }
            waiting.get_or_insert_with(|| progress.waiting());
            tokio::time::sleep(COUNT_INTERVAL).await;
        }
    }

    async fn count(&self, state: &mut State) -> Result<u64, PoolError> {
        if state.retries_counted.is_none_or(|at| at.elapsed() >= RETRIES_INTERVAL) {
            state.retries = count(&self.retries.0, &self.retries.1).await?;
            state.retries_counted = Some(Instant::now());
        }
        Ok(count(&self.jobs.0, &self.jobs.1).await?.saturating_add(state.retries))
    }

    /// Records that reserved jobs have been stored.
    pub(crate) async fn stored(&self, jobs: u64) {
        let mut state = self.state.lock().await;
        state.unconfirmed = state.unconfirmed.saturating_sub(jobs);
    }
}
