//! At most so many jobs of a dataset wait in the stream; the source is the real queue.

use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use futures::TryStreamExt;
use tokio::sync::Mutex;

/// How often the jobs are counted while there are too many.
const COUNT_EVERY: Duration = Duration::from_millis(500);

/// Admits jobs while fewer than `most` wait.
#[derive(Debug)]
pub(crate) struct Watermark {
    stream: Stream,
    subject: String,
    most: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// No fewer than wait in the stream or are about to be stored: workers take some without telling.
    waiting: u64,
    /// Admitted, but not known to be stored yet.
    on_their_way: u64,
}

impl Watermark {
    pub(crate) fn new(stream: Stream, subject: String, most: u64) -> Self {
        Self { stream, subject, most, state: Mutex::new(State { waiting: u64::MAX, on_their_way: 0 }) }
    }

    /// Waits until `jobs` more can be stored. `wait` is called once if there is no room for them at first.
    pub(crate) async fn admit(&self, jobs: u64, mut wait: impl FnMut(bool)) {
        let mut has_waited = false;
        loop {
            {
                let mut state = self.state.lock().await;
                let fits = |state: &State| state.waiting.checked_add(jobs).is_some_and(|sum| sum <= self.most);
                if !fits(&state) {
                    match self.count().await {
                        // A job that is stored during the count may be counted twice: too many, which does no harm.
                        Ok(counted) => state.waiting = counted.saturating_add(state.on_their_way),
                        Err(error) => tracing::warn!("the waiting jobs cannot be counted, trying again: {error}"),
                    }
                }
                if fits(&state) {
                    state.waiting += jobs;
                    state.on_their_way += jobs;
                    if has_waited {
                        wait(false);
                    }
                    return;
                }
            }
            if !has_waited {
                wait(true);
                has_waited = true;
            }
            tokio::time::sleep(COUNT_EVERY).await;
        }
    }

    /// Jobs that were admitted are stored.
    pub(crate) async fn stored(&self, jobs: u64) {
        let mut state = self.state.lock().await;
        state.on_their_way = state.on_their_way.saturating_sub(jobs);
    }

    async fn count(&self) -> Result<u64, async_nats::Error> {
        let mut subjects = self.stream.info_with_subjects(&self.subject).await?;
        let mut counted = 0;
        while let Some((_, messages)) = subjects.try_next().await? {
            counted += messages as u64;
        }
        Ok(counted)
    }
}
