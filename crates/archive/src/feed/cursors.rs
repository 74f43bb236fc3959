//! Reading, claiming and moving the cursors of a dataset.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use broker::backoff::{Backoff, Delays};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use wire::subjects::Dataset;

use super::batch::{self, BatchError, Guarded, Job};
use super::error::FeedError;
use super::plan::{Cursor, FeederRecord, Plan};
use crate::object::Position;

/// How long a request is repeated while it fails in a way that passes.
const PATIENCE: u32 = 60;
const AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// The cursors of one dataset in the stream of jobs.
#[derive(Debug, Clone)]
pub(crate) struct Cursors {
    pub(crate) client: Client,
    pub(crate) stream: Stream,
    pub(crate) dataset: Dataset,
    pub(crate) timeout: Duration,
}

/// A value with the sequence of its message; 0 if there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored<T> {
    pub(crate) value: T,
    pub(crate) sequence: u64,
}

impl Cursors {
    fn stream_name(&self) -> &str {
        &self.stream.cached_info().config.name
    }

    /// The last value on a subject of the dataset.
    pub(crate) async fn last<T: DeserializeOwned>(&self, name: &str) -> Result<Option<Stored<T>>, FeedError> {
        let subject = self.dataset.cursor_subject(name);
        let (mut failures, mut delays) = (0, Delays::of(AGAIN));
        let message = loop {
            match self.stream.get_last_raw_message_by_subject(&subject).await {
                Ok(message) => break message,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
                Err(error) if failures >= PATIENCE => {
                    return Err(FeedError::broker(format!("reading {subject}"), &error));
                }
                Err(error) => {
                    failures += 1;
                    tracing::debug!(subject, "not read yet: {error}");
                    tokio::time::sleep(delays.after_failure()).await;
                }
            }
        };
        let value =
            serde_json::from_slice(&message.payload).map_err(|cause| FeedError::Unreadable { subject, cause })?;
        Ok(Some(Stored { value, sequence: message.sequence }))
    }

    /// Stores `plan` if there is none, and gives the one that is stored then.
    pub(crate) async fn plan_or(&self, plan: &Plan) -> Result<Plan, FeedError> {
        let (mut failures, mut delays) = (0, Delays::of(AGAIN));
        loop {
            if let Some(found) = self.last("plan").await? {
                return Ok(found.value);
            }
            match self.store("plan", plan, 0, &[]).await {
                Ok(_) | Err(BatchError::Overtaken) => {}
                Err(error) => self.wait(&mut failures, &mut delays, "storing the plan", error).await?,
            }
        }
    }

    /// Becomes the feeder that was started last.
    pub(crate) async fn register(&self, name: &str) -> Result<FeederRecord, FeedError> {
        let (mut failures, mut delays) = (0, Delays::of(AGAIN));
        loop {
            let last = self.last::<FeederRecord>("feeder").await?;
            let (generation, sequence) = last.map_or((0, 0), |last| (last.value.generation, last.sequence));
            let own = FeederRecord { generation: generation + 1, name: name.to_owned() };
            match self.store("feeder", &own, sequence, &[]).await {
                Ok(_) => {
                    self.remove_old("feeder").await;
                    return Ok(own);
                }
                // Another one came first; or this one did, and the answer was lost: then a number is left out.
                Err(BatchError::Overtaken) => {}
                Err(error) => self.wait(&mut failures, &mut delays, "registering the feeder", error).await?,
            }
        }
    }

    /// Takes a lane over from earlier feeders.
    pub(crate) async fn claim(&self, lane: usize, feeder: &FeederRecord) -> Result<Stored<Cursor>, FeedError> {
        let (name, mut failures, mut delays) = (lane.to_string(), 0, Delays::of(AGAIN));
        loop {
            let last = self.last::<Cursor>(&name).await?;
            let last = last.unwrap_or(Stored { value: Cursor::default(), sequence: 0 });
            // Nobody moves a cursor at the end any more.
            if last.value.feeder == *feeder || last.value.position == Position::End {
                return Ok(last);
            }
            self.refuse_later(&last.value, feeder)?;
            let own = Cursor { feeder: feeder.clone(), batches: 0, ..last.value };
            match self.store(&name, &own, last.sequence, &[]).await {
                Ok(sequence) => return Ok(Stored { value: own, sequence }),
                // The earlier feeder was faster.
                Err(BatchError::Overtaken) => {}
                Err(error) => self.wait(&mut failures, &mut delays, "claiming a lane", error).await?,
            }
        }
    }

    fn refuse_later(&self, found: &Cursor, own: &FeederRecord) -> Result<(), FeedError> {
        if found.feeder.generation < own.generation {
            return Ok(());
        }
        Err(FeedError::FencedOut { dataset: self.dataset.to_string(), by: found.feeder.name.clone() })
    }

    /// Stores jobs and the lane's cursor after them. Tries until it is certain that both are stored, or that they never
    /// will be.
    pub(crate) async fn commit(
        &self,
        lane: usize,
        jobs: &[Bytes],
        cursor: &Cursor,
        last_sequence: u64,
    ) -> Result<u64, FeedError> {
        let (name, mut failures, mut delays, mut is_full) = (lane.to_string(), 0, Delays::of(AGAIN), false);
        loop {
            let error = match self.store(&name, cursor, last_sequence, jobs).await {
                Ok(sequence) => return Ok(sequence),
                Err(error) => error,
            };
            // The answer can be lost where the batch is not, so only the cursor tells.
            match self.last::<Cursor>(&name).await? {
                Some(found) if found.value == *cursor => return Ok(found.sequence),
                Some(found) if found.value.feeder != cursor.feeder => {
                    self.refuse_later(&found.value, &cursor.feeder)?
                }
                _ => {}
            }
            match error {
                BatchError::Full(said) => {
                    if !is_full {
                        tracing::warn!("the stream of jobs is full, waiting for workers to make room: {said}");
                    }
                    is_full = true;
                    tokio::time::sleep(AGAIN.longest / 10).await;
                }
                error => self.wait(&mut failures, &mut delays, "storing jobs", error).await?,
            }
        }
    }

    /// Waits before the next attempt.
    async fn wait(
        &self,
        failures: &mut u32,
        delays: &mut Delays,
        what: &str,
        error: BatchError,
    ) -> Result<(), FeedError> {
        *failures += 1;
        let is_final = matches!(error, BatchError::Refused(_)) || *failures > PATIENCE;
        if is_final {
            return Err(FeedError::Broker { what: what.to_owned(), cause: error.to_string() });
        }
        if *failures == 5 {
            tracing::warn!("{what} does not succeed, trying again: {error}");
        }
        tokio::time::sleep(delays.after_failure()).await;
        Ok(())
    }

    async fn store(
        &self,
        name: &str,
        value: &impl Serialize,
        last_sequence: u64,
        jobs: &[Bytes],
    ) -> Result<u64, BatchError> {
        let payload = serde_json::to_vec(value).map_err(|error| BatchError::Refused(error.to_string()))?.into();
        let guarded = Guarded { subject: self.dataset.cursor_subject(name), payload, last_sequence };
        let subject = self.dataset.jobs_subject();
        let jobs: Vec<Job> = jobs.iter().cloned().map(Job::from).collect();
        batch::store(&self.client, self.stream_name(), &subject, &jobs, &guarded, self.timeout).await
    }

    /// Removes all but the last message of a subject. Those that stay for now cost only room.
    pub(crate) async fn remove_old(&self, name: &str) {
        let purge = self.stream.purge().filter(self.dataset.cursor_subject(name)).keep(1);
        if let Err(error) = purge.await {
            tracing::debug!(name, "old cursors were not removed: {error}");
        }
    }
}
