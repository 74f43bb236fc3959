//! Attempts at a job, recorded where all workers see them.
//!
//! The server counts every delivery, also those that a worker released unharmed: at shutdown, or because a stream was
//! full. Such a delivery says nothing about the job. What counts towards `worker.max_deliveries` is an attempt that
//! failed for the job's own reason, and one that was started and never ended, because the job may have crashed the
//! worker.
//!
//! A redelivered job is recorded when it is started. The record stays if the attempt fails or the worker dies, and is
//! deleted if the job is released. Deleting works on a full disk too; a job whose attempt cannot be recorded is not
//! started. First deliveries are only recorded when they fail, so that a healthy job costs nothing: one that kills its
//! workers does so once more than `worker.max_deliveries`.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use futures::TryStreamExt;
use wire::Message;
use wire::subjects::{attempt_subject, attempts_subject};
use wire::v1::Attempt;

use crate::delivery::DeliveryFacts;
use broker::publish::{PublishError, RetryDeadline};
use broker::stream_states::StreamStates;

/// How long a record is tried for. Without one the job is released and comes again, so there is no need to wait long.
const PATIENCE: Duration = Duration::from_secs(3);

/// The stream of attempts.
#[derive(Debug, Clone)]
pub struct Attempts {
    jetstream: Context,
    stream: String,
    worker_id: String,
    states: StreamStates,
}

/// What is known about a job's attempts when one is started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Started {
    /// Attempts before this one that failed or never ended.
    pub earlier: u64,
    /// Sequence of this attempt's own record, if it has one.
    record: Option<u64>,
}

impl Attempts {
    /// Attempts of this worker in the stream of this name.
    pub fn new(jetstream: Context, stream: &str, worker_id: &str) -> Self {
        let (stream, worker_id) = (stream.to_owned(), worker_id.to_owned());
        Self { jetstream, stream, worker_id, states: StreamStates::default() }
    }

    /// The same, telling whether the stream takes messages.
    #[must_use]
    pub fn watched(self, states: StreamStates) -> Self {
        Self { states, ..self }
    }

    /// Counts the earlier attempts at a redelivered job and records this one. Does nothing at a first delivery.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] if the stream cannot be read or takes no record: the job must not be started.
    pub async fn start(&self, job: &DeliveryFacts) -> Result<Started, PublishError> {
        if job.attempt <= 1 {
            return Ok(Started::default());
        }
        let mut patience = RetryDeadline::after(PATIENCE);
        loop {
            let error = match self.count_and_record(job).await {
                Ok(started) => return Ok(started),
                Err(error) => error,
            };
            self.states.record_error(&self.jetstream, &self.stream, error.as_ref()).await;
            if !patience.pause().await {
                return Err(self.unavailable(job, error));
            }
        }
    }

    async fn count_and_record(&self, job: &DeliveryFacts) -> Result<Started, async_nats::Error> {
        let own = attempt_subject(job.sequence, job.published_nanos, job.attempt);
        let earlier = self.recorded(job).await?.into_iter().filter(|delivery| *delivery != job.attempt).count() as u64;
        let record = self.write(&own, "").await?;
        Ok(Started { earlier, record: Some(record) })
    }

    /// Removes the record of an attempt that was broken off for a reason that is not the job's. Best effort: where the
    /// server does not answer, the attempt counts.
    pub async fn release(&self, started: Started) {
        let Some(record) = started.record else { return };
        let deleted = async {
            let stream: Stream<()> = self.jetstream.get_stream_no_info(&self.stream).await?;
            stream.delete_message(record).await?;
            Ok::<_, async_nats::Error>(())
        };
        if let Err(error) = deleted.await {
            tracing::debug!(%error, "an attempt that does not count could not be removed");
        }
    }

    /// Records why an attempt failed. Best effort: where the stream takes no record, a first attempt does not count.
    pub async fn fail(&self, job: &DeliveryFacts, error: &str) {
        let subject = attempt_subject(job.sequence, job.published_nanos, job.attempt);
        if let Err(error) = self.write(&subject, error).await {
            self.states.record_error(&self.jetstream, &self.stream, error.as_ref()).await;
            tracing::debug!(%error, "a failed attempt could not be recorded");
        }
    }

    /// The last error that an attempt at the job is known to have failed with.
    pub async fn last_error(&self, job: &DeliveryFacts) -> Option<String> {
        match self.find_last_error(job).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "the errors of earlier attempts cannot be read");
                None
            }
        }
    }

    async fn find_last_error(&self, job: &DeliveryFacts) -> Result<Option<String>, async_nats::Error> {
        let stream: Stream<()> = self.jetstream.get_stream_no_info(&self.stream).await?;
        for delivery in self.recorded(job).await?.into_iter().rev() {
            let subject = attempt_subject(job.sequence, job.published_nanos, delivery);
            match stream.get_last_raw_message_by_subject(&subject).await {
                Ok(message) => {
                    let attempt = Attempt::decode(message.payload)?;
                    if !attempt.error.is_empty() {
                        return Ok(Some(attempt.error));
                    }
                }
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Removes what was recorded of a job that has ended. Best effort: records age in any case.
    pub async fn forget(&self, job: &DeliveryFacts) {
        let purged = async {
            let stream: Stream<()> = self.jetstream.get_stream_no_info(&self.stream).await?;
            stream.purge().filter(attempts_subject(job.sequence, job.published_nanos)).await?;
            Ok::<_, async_nats::Error>(())
        };
        if let Err(error) = purged.await {
            tracing::debug!(%error, "the attempts of a job that has ended could not be removed");
        }
    }

    /// The deliveries of which a record exists, in ascending order.
    async fn recorded(&self, job: &DeliveryFacts) -> Result<Vec<u64>, async_nats::Error> {
        let stream: Stream<()> = self.jetstream.get_stream_no_info(&self.stream).await?;
        let filter = attempts_subject(job.sequence, job.published_nanos);
        let subjects: Vec<(String, usize)> = stream.info_with_subjects(filter).await?.try_collect().await?;
        let delivery = |subject: &str| subject.rsplit_once('.')?.1.parse().ok();
        let mut deliveries: Vec<u64> = subjects.iter().filter_map(|(subject, _)| delivery(subject)).collect();
        deliveries.sort_unstable();
        Ok(deliveries)
    }

    async fn write(&self, subject: &str, error: &str) -> Result<u64, async_nats::Error> {
        let attempt = Attempt { worker_id: self.worker_id.clone(), error: error.to_owned() };
        let message = PublishMessage::build().payload(attempt.encode_to_vec().into()).expected_stream(&self.stream);
        let sequence = self.jetstream.send_publish(subject.to_owned(), message).await?.await?.sequence;
        self.states.record_success(&self.stream);
        Ok(sequence)
    }

    fn unavailable(&self, job: &DeliveryFacts, cause: async_nats::Error) -> PublishError {
        let subject = attempts_subject(job.sequence, job.published_nanos);
        PublishError::Unavailable { subject, stream: self.stream.clone(), cause }
    }
}
