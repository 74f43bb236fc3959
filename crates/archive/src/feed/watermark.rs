//! Limits the number of jobs of a dataset that wait in the stream, so that the source, not the stream, is the queue.

use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use futures::TryStreamExt;
use tokio::sync::Mutex;

use super::progress::Progress;

/// How often jobs are counted while the maximum is reached.
const COUNT_INTERVAL: Duration = Duration::from_millis(500);

/// Allows jobs to be stored while fewer than `max_waiting` wait.
#[derive(Debug)]
pub(crate) struct Watermark {
    stream: Stream,
    subject: String,
    max_waiting: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// An upper bound on the jobs that wait in the stream or are being stored: jobs that workers have taken since the last
    /// count are included.
    waiting: u64,
    /// Jobs that are being stored.
    unconfirmed: u64,
}

impl Watermark {
    pub(crate) fn new(stream: Stream, subject: String, max_waiting: u64) -> Self {
        Self { stream, subject, max_waiting, state: Mutex::new(State { waiting: u64::MAX, unconfirmed: 0 }) }
    }

    /// Waits until this many more jobs may be stored.
    pub(crate) async fn reserve(&self, jobs: u64, progress: &Progress) {
        let mut waiting = None;
        loop {
            {
                let mut state = self.state.lock().await;
                let fits = |state: &State| state.waiting.checked_add(jobs).is_some_and(|sum| sum <= self.max_waiting);
                if !fits(&state) {
                    match count(&self.stream, &self.subject).await {
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

    /// Records that reserved jobs have been stored.
    pub(crate) async fn stored(&self, jobs: u64) {
        let mut state = self.state.lock().await;
        state.unconfirmed = state.unconfirmed.saturating_sub(jobs);
    }
}

/// The number of messages in the stream whose subjects match the filter.
pub(crate) async fn count(stream: &Stream, filter: &str) -> Result<u64, async_nats::Error> {
    let mut subjects = stream.info_with_subjects(filter).await?;
    let mut counted = 0;
    while let Some((_, messages)) = subjects.try_next().await? {
        counted += messages as u64;
    }
    Ok(counted)
}
