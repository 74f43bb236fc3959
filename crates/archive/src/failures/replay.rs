//! Publishing the jobs of failures again, each exactly once.
//!
//! The job goes into the stream of jobs in one atomic batch with a *marker*, a message on
//! `groundling.cursor.<dataset>.replay-<sequence>-<time>` that is stored only if there is none yet; sequence and time are
//! those of the failure. Then the failure is removed, and then the marker. So a replay that is killed in between leaves the
//! failure alone, or failure, job and marker: the next one finds the marker and only removes the failure. The job's id
//! (`Nats-Msg-Id`) is `<job id>#<sequence of the failed message>`, so that the stream also refuses a job that a client has
//! resubmitted within its duplicate window.
//!
//! The bytes of the job stay the same, and with them the id of its annotation. Outcomes are claimed for a message of the
//! stream of jobs, not for a job, so that the failure of the first message does not count for the new one.

use std::time::Duration;

use async_nats::jetstream::stream::{Info, LastRawMessageErrorKind, Stream};
use broker::backoff::{Backoff, Delays};
use futures::{StreamExt, TryStreamExt, stream};
use wire::identity::resubmission_id;
use wire::subjects::{CURSORS_WILDCARD, Dataset, dataset_token};

use super::read::Failure;
use super::remove::{exists, remove};
use crate::feed::batch::{self, BatchError, BatchJob, GuardedMessage};
use crate::pool::{Pool, PoolError, subjects};

/// Failures that are replayed at once.
const CONCURRENCY: usize = 16;
/// Times that a batch is stored again after an error that may pass.
const ATTEMPTS: u32 = 8;
const RETRY_DELAY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// What the last token of a marker's subject begins with.
const MARKER: &str = "replay-";

/// Replays failures.
#[derive(Debug)]
pub struct Replay {
    pool: Pool,
    jobs: Stream<Info>,
    failed: Stream<Info>,
}

/// What became of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// Its job is in the stream of jobs, and the failure is removed.
    Done,
    /// Its job had been stored before, by a replay that was stopped or by a client; the failure is removed.
    Before,
    /// Its job cannot be published. The failure stays.
    Impossible(String),
}

/// Failures cannot be replayed. Those that were replayed before stay so.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A stream cannot be read or changed.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The stream is that of an earlier version.
    #[error("the stream {0} does not take atomic batches with cursors: run `groundling setup --migrate`")]
    OldStream(String),
    /// The stream of jobs is full.
    #[error("the stream of jobs is full ({0}): replay the rest when workers have made room")]
    Full(String),
    /// The server does not answer.
    #[error("the job of the failure with the sequence {sequence} was not stored: {cause}")]
    NotStored {
        /// Sequence of the failure.
        sequence: u64,
        /// What the server or the connection said.
        cause: String,
    },
}

impl Replay {
    /// Opens the streams, and removes markers that stopped replays have left.
    ///
    /// # Errors
    /// [`ReplayError`] if a stream does not exist, or is that of an earlier version.
    pub async fn open(pool: &Pool) -> Result<Self, ReplayError> {
        let jobs = pool.stream(&pool.streams.jobs).await?;
        let config = &jobs.cached_info().config;
        if !config.allow_atomic_publish || !config.subjects.iter().any(|subject| subject == CURSORS_WILDCARD) {
            return Err(ReplayError::OldStream(config.name.clone()));
        }
        let failed = pool.stream(&pool.streams.failed).await?;
        let replay = Self { pool: pool.clone(), jobs, failed };
        replay.remove_old_markers().await?;
        Ok(replay)
    }

    /// Publishes the job of a failure again, waits until the stream has stored it, and removes the failure.
    ///
    /// # Errors
    /// [`ReplayError`]. The failure stays, and can be replayed again whatever was stored.
    pub async fn replay(&self, failure: &Failure) -> Result<Replayed, ReplayError> {
        let record = &failure.record;
        if record.job_omitted {
            return Ok(Replayed::Impossible("it does not contain its job: submit the job from its source".to_owned()));
        }
        let dataset = match dataset_token(&record.subject).map(str::parse::<Dataset>) {
            Some(Ok(dataset)) => dataset,
            Some(Err(error)) => return Ok(Replayed::Impossible(error.to_string())),
            None => return Ok(Replayed::Impossible(format!("{:?} is not the subject of a job", record.subject))),
        };
        let marker = dataset.cursor_subject(&marker_name(failure));
        let job = BatchJob { payload: record.job.clone(), id: Some(resubmission_id(record)) };
        let replayed = self.store(failure, job, &marker).await?;
        if matches!(replayed, Replayed::Impossible(_)) {
            return Ok(replayed);
        }
        remove(&self.pool, failure.sequence).await?;
        self.remove_marker(&marker).await;
        Ok(replayed)
    }

    /// Replays some failures, several at once. Returns the sequence of each and what became of it.
    ///
    /// # Errors
    /// The first [`ReplayError`]; others of these failures may have been replayed.
    pub async fn replay_all(&self, failures: &[Failure]) -> Result<Vec<(u64, Replayed)>, ReplayError> {
        let replays = failures.iter().map(|failure| async { Ok((failure.sequence, self.replay(failure).await?)) });
        stream::iter(replays.collect::<Vec<_>>()).buffered(CONCURRENCY).try_collect().await
    }

    /// Stores job and marker, unless the marker is there. Removes nothing.
    async fn store(&self, failure: &Failure, job: BatchJob, marker: &str) -> Result<Replayed, ReplayError> {
        let note = serde_json::json!({ "failure": failure.sequence, "job_id": failure.record.job_id });
        let guarded = GuardedMessage { subject: marker.to_owned(), payload: note.to_string().into(), last_sequence: 0 };
        let (subject, jobs) = (&failure.record.subject, [job]);
        let (mut attempts, mut delays, mut was_duplicate) = (0, Delays::of(RETRY_DELAY), false);
        loop {
            let name = &self.pool.streams.jobs;
            let stored = batch::store(&self.pool.client, name, subject, &jobs, &guarded, self.pool.timeout).await;
            let cause = match stored {
                Ok(_) => return Ok(Replayed::Done),
                // An earlier attempt has stored it, whose answer was lost, or another replay, or a client. Or such a batch is in
                // progress, which may still fail if a server dies: only what is stored counts.
                Err(error @ (BatchError::SequenceChanged | BatchError::Duplicate)) => {
                    if self.is_marked(marker).await? {
                        return Ok(if attempts > 0 { Replayed::Done } else { Replayed::Before });
                    }
                    let is_duplicate = matches!(error, BatchError::Duplicate);
                    if is_duplicate && was_duplicate {
                        return Ok(Replayed::Before);
                    }
                    was_duplicate = is_duplicate;
                    error.to_string()
                }
                Err(BatchError::Permanent(said)) => return Ok(Replayed::Impossible(said)),
                Err(BatchError::StreamFull(said)) => return Err(ReplayError::Full(said)),
                Err(BatchError::Temporary(cause)) => cause,
            };
            attempts += 1;
            if attempts >= ATTEMPTS {
                return Err(ReplayError::NotStored { sequence: failure.sequence, cause });
            }
            tracing::debug!(sequence = failure.sequence, "the job is stored again: {cause}");
            tokio::time::sleep(delays.after_failure()).await;
        }
    }

    /// Whether the stream has the marker.
    async fn is_marked(&self, marker: &str) -> Result<bool, PoolError> {
        match self.jobs.get_last_raw_message_by_subject(marker).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
            Err(error) => Err(PoolError::broker(format!("looking for {marker}"), &error)),
        }
    }

    /// A marker that stays is removed by a later replay.
    async fn remove_marker(&self, marker: &str) {
        if let Err(error) = self.jobs.purge().filter(marker).await {
            tracing::debug!(marker, "the marker was not removed: {error}");
        }
    }

    /// Removes the markers of failures that are no longer in their stream.
    async fn remove_old_markers(&self) -> Result<(), PoolError> {
        for (subject, _) in subjects(&self.jobs, CURSORS_WILDCARD).await? {
            let Some(sequence) = marked_sequence(&subject) else { continue };
            if !exists(&self.failed, sequence).await? {
                self.remove_marker(&subject).await;
            }
        }
        Ok(())
    }
}

/// Sequences repeat if the stream is created again, so the time is part of the name.
fn marker_name(failure: &Failure) -> String {
    format!("{MARKER}{}-{}", failure.sequence, failure.published.unix_timestamp_nanos())
}

/// The sequence of the failure in the subject of a marker; `None` for another subject.
fn marked_sequence(subject: &str) -> Option<u64> {
    let (_, name) = subject.rsplit_once('.')?;
    let (sequence, _) = name.strip_prefix(MARKER)?.split_once('-')?;
    sequence.parse().ok()
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;
    use wire::v1::JobFailure;

    use super::*;

    #[test]
    fn a_marker_names_the_failure() {
        let published = OffsetDateTime::UNIX_EPOCH + time::Duration::nanoseconds(17);
        let failure = Failure { sequence: 5, published, id: None, record: JobFailure::default() };
        let dataset: Dataset = "cats".parse().unwrap();
        let subject = dataset.cursor_subject(&marker_name(&failure));
        assert_eq!(subject, "groundling.cursor.cats.replay-5-17");
        assert_eq!(marked_sequence(&subject), Some(5));
        assert_eq!(marked_sequence("groundling.cursor.cats.plan"), None);
        assert_eq!(marked_sequence("groundling.cursor.cats.3"), None);
    }
}
