//! Reads and writes the records of a dataset.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use broker::backoff::{Backoff, Delays};
use serde::{Serialize, de::DeserializeOwned};
use wire::subjects::Dataset;

use super::batch::{self, BatchError, BatchJob, GuardedMessage, OpenBatch};
use super::error::FeedError;
use super::records::{Cursor, DatasetState, FeederRecord, Plan, StateRecord};
use crate::object::Position;

/// Maximum attempts at a request that fails with temporary errors.
const MAX_ATTEMPTS: u32 = 60;
/// The attempt at which a warning is logged.
const WARN_AT_ATTEMPT: u32 = 5;
const RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
/// Delay between attempts while the stream is full.
const FULL_DELAY: Duration = Duration::from_secs(1);

/// The records of one dataset in the jobs stream.
#[derive(Debug, Clone)]
pub(crate) struct Cursors {
    pub(crate) client: Client,
    pub(crate) stream: Stream,
    pub(crate) dataset: Dataset,
    /// The subject of the dataset's jobs, urgent or not.
    pub(crate) jobs_subject: String,
    pub(crate) timeout: Duration,
}

/// A record with the sequence of its message; 0 if it is not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Versioned<T> {
    pub(crate) value: T,
    pub(crate) sequence: u64,
}

/// Jobs that are not stored yet.
#[derive(Debug)]
pub(crate) struct SentJobs {
    jobs: Vec<BatchJob>,
    batch: Result<OpenBatch, BatchError>,
}

/// Attempts at one request, with growing delays between them.
struct Attempts {
    failed: u32,
    delays: Delays,
}

impl Attempts {
    fn new() -> Self {
        Self { failed: 0, delays: Delays::of(RETRY_BACKOFF) }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// If the error is permanent, or this was the last attempt.
    async fn retry_after(&mut self, what: &str, error: BatchError) -> Result<(), FeedError> {
        self.failed += 1;
        if matches!(error, BatchError::Permanent(_)) || self.failed > MAX_ATTEMPTS {
            return Err(FeedError::Broker { what: what.to_owned(), cause: error.to_string() });
        }
        if self.failed == WARN_AT_ATTEMPT {
            tracing::warn!(attempts = self.failed, "{what} failed, trying again: {error}");
        }
        tokio::time::sleep(self.delays.after_failure()).await;
        Ok(())
    }
}

impl Cursors {
    fn stream_name(&self) -> &str {
        &self.stream.cached_info().config.name
    }

    /// The last record with this name.
    pub(crate) async fn last<T: DeserializeOwned>(&self, name: &str) -> Result<Option<Versioned<T>>, FeedError> {
        let subject = self.dataset.cursor_subject(name);
        let (mut failed, mut delays) = (0, Delays::of(RETRY_BACKOFF));
        let message = loop {
            match self.stream.get_last_raw_message_by_subject(&subject).await {
                Ok(message) => break message,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
                Err(error) if failed >= MAX_ATTEMPTS => {
                    return Err(FeedError::broker(format!("reading {subject}"), &error));
                }
                Err(error) => {
                    failed += 1;
                    tracing::debug!(subject, "a record could not be read, trying again: {error}");
                    tokio::time::sleep(delays.after_failure()).await;
                }
            }
        };
        let value =
            serde_json::from_slice(&message.payload).map_err(|cause| FeedError::InvalidRecord { subject, cause })?;
        Ok(Some(Versioned { value, sequence: message.sequence }))
    }

    /// The state of the dataset.
    pub(crate) async fn state(&self) -> Result<StateRecord, FeedError> {
        Ok(self.last("state").await?.map(|found| found.value).unwrap_or_default())
    }

    /// Sets the state of the dataset. Returns the one before.
    pub(crate) async fn set_state(&self, state: &StateRecord) -> Result<DatasetState, FeedError> {
        let mut attempts = Attempts::new();
        loop {
            let last = self.last::<StateRecord>("state").await?;
            let (before, sequence) = last.map_or((StateRecord::default(), 0), |last| (last.value, last.sequence));
            if before == *state {
                return Ok(before.state);
            }
            match self.store("state", state, sequence, &[]).await {
                Ok(_) => {
                    self.remove_old("state").await;
                    return Ok(before.state);
                }
                Err(BatchError::SequenceChanged) => {}
                Err(error) => attempts.retry_after("storing the dataset's state", error).await?,
            }
        }
    }

    /// Stores `plan`, unless another process has stored one since the plan with the sequence `last_sequence`. Returns the
    /// stored plan.
    pub(crate) async fn store_plan(&self, plan: Plan, last_sequence: u64) -> Result<Plan, FeedError> {
        let mut attempts = Attempts::new();
        loop {
            match self.store("plan", &plan, last_sequence, &[]).await {
                Ok(_) | Err(BatchError::SequenceChanged) => {}
                Err(error) => attempts.retry_after("storing the plan", error).await?,
            }
            match self.last::<Plan>("plan").await? {
                Some(found) if found.sequence > last_sequence => {
                    self.remove_old("plan").await;
                    return Ok(found.value);
                }
                _ => {}
            }
        }
    }

    /// Registers a feeder as the one that was started last.
    pub(crate) async fn register(&self, name: &str) -> Result<FeederRecord, FeedError> {
        let mut attempts = Attempts::new();
        loop {
            let last = self.last::<FeederRecord>("feeder").await?;
            let (generation, sequence) = last.map_or((0, 0), |last| (last.value.generation, last.sequence));
            let own = FeederRecord { generation: generation + 1, name: name.to_owned() };
            match self.store("feeder", &own, sequence, &[]).await {
                Ok(_) => {
                    self.remove_old("feeder").await;
                    return Ok(own);
                }
                // Another feeder was faster, or the response to an earlier attempt was lost, which skips a generation.
                Err(BatchError::SequenceChanged) => {}
                Err(error) => attempts.retry_after("registering the feeder", error).await?,
            }
        }
    }

    /// Takes a lane over from earlier feeders. A lane of an earlier pass starts again.
    pub(crate) async fn take_over(
        &self,
        lane: usize,
        pass: u64,
        feeder: &FeederRecord,
    ) -> Result<Versioned<Cursor>, FeedError> {
        let (name, mut attempts) = (lane.to_string(), Attempts::new());
        loop {
            let last = self.last::<Cursor>(&name).await?;
            let Versioned { value: last, sequence } =
                last.unwrap_or(Versioned { value: Cursor::default(), sequence: 0 });
            // A cursor at the end never moves again.
            if last.pass == pass && (last.feeder == *feeder || last.position == Position::End) {
                return Ok(Versioned { value: last, sequence });
            }
            self.check_fence(&last, feeder)?;
            // Another feeder has started a later pass, which this one knows nothing of.
            if last.pass > pass {
                return Err(FeedError::PlanReplaced(self.dataset.to_string()));
            }
            let own = match last.pass == pass {
                true => Cursor { feeder: feeder.clone(), batches: 0, ..last },
                false => Cursor { feeder: feeder.clone(), pass, ..Cursor::default() },
            };
            match self.store(&name, &own, sequence, &[]).await {
                Ok(sequence) => return Ok(Versioned { value: own, sequence }),
                // The earlier feeder has moved the cursor meanwhile.
                Err(BatchError::SequenceChanged) => {}
                Err(error) => attempts.retry_after("taking over a lane", error).await?,
            }
        }
    }

    fn check_fence(&self, found: &Cursor, own: &FeederRecord) -> Result<(), FeedError> {
        if found.feeder.generation < own.generation {
            return Ok(());
        }
        Err(self.fenced_out_by(&found.feeder))
    }

    pub(crate) fn fenced_out_by(&self, other: &FeederRecord) -> FeedError {
        FeedError::FencedOut { dataset: self.dataset.to_string(), by: other.name.clone() }
    }

    /// Sends jobs, which are stored when they are committed with a cursor.
    pub(crate) async fn send(&self, jobs: Vec<BatchJob>) -> SentJobs {
        let batch = OpenBatch::send(&self.client, &self.jobs_subject, &jobs).await;
        SentJobs { jobs, batch }
    }

    /// Stores the sent jobs together with the lane's cursor after them. Sends them again until both are stored, or it is
    /// certain that they never will be.
    pub(crate) async fn commit(
        &self,
        lane: usize,
        SentJobs { jobs, batch }: SentJobs,
        cursor: &Cursor,
        last_sequence: u64,
    ) -> Result<u64, FeedError> {
        let (name, mut attempts, mut is_full) = (lane.to_string(), Attempts::new(), false);
        let mut stored = match batch {
            Ok(batch) => match self.guarded(&name, cursor, last_sequence) {
                Ok(guarded) => batch.commit(&self.client, self.stream_name(), &guarded, self.timeout).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        loop {
            let error = match stored {
                Ok(sequence) => return Ok(sequence),
                Err(error) => error,
            };
            // The response can be lost although the batch is stored, so the stored cursor decides.
            match self.last::<Cursor>(&name).await? {
                Some(found) if found.value == *cursor => return Ok(found.sequence),
                Some(found) if found.value.feeder != cursor.feeder => self.check_fence(&found.value, &cursor.feeder)?,
                _ => {}
            }
            match error {
                BatchError::StreamFull(message) => {
                    if !is_full {
                        tracing::warn!("the jobs stream is full, waiting until workers have taken jobs: {message}");
                    }
                    is_full = true;
                    tokio::time::sleep(FULL_DELAY).await;
                }
                error => attempts.retry_after("storing jobs", error).await?,
            }
            stored = self.store(&name, cursor, last_sequence, &jobs).await;
        }
    }

    async fn store(
        &self,
        name: &str,
        value: &impl Serialize,
        last_sequence: u64,
        jobs: &[BatchJob],
    ) -> Result<u64, BatchError> {
        let guarded = self.guarded(name, value, last_sequence)?;
        batch::store(&self.client, self.stream_name(), &self.jobs_subject, jobs, &guarded, self.timeout).await
    }

    fn guarded(&self, name: &str, value: &impl Serialize, last_sequence: u64) -> Result<GuardedMessage, BatchError> {
        let payload = serde_json::to_vec(value).map_err(|error| BatchError::Permanent(error.to_string()))?.into();
        Ok(GuardedMessage { subject: self.dataset.cursor_subject(name), payload, last_sequence })
    }

    /// Removes all but the last record with this name. Best effort: old records only take storage.
    pub(crate) async fn remove_old(&self, name: &str) {
        let purge = self.stream.purge().filter(self.dataset.cursor_subject(name)).keep(1);
        if let Err(error) = purge.await {
            tracing::debug!(name, "old records could not be removed: {error}");
        }
    }
}
