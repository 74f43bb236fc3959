//! Attempts at jobs, recorded in a stream that all workers share.
//!
//! The server counts every delivery, including those that a worker released at shutdown or because a stream was full.
//! Such a delivery shows nothing about the job. An attempt counts towards `worker.max_deliveries` if it failed for a
//! reason that may be the job's own, or if it was started and never ended, because the job may have crashed the worker.
//!
//! The attempt at a redelivered job is recorded when it starts. The record stays if the attempt fails or the worker
//! dies, and is deleted if the job is released; deleting works even if the disk is full. A job whose attempt cannot be
//! recorded is not started. First deliveries are recorded only when they fail, so that healthy jobs cost nothing: a job
//! that crashes its workers is started once more than `worker.max_deliveries` says.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use futures::TryStreamExt;
use wire::Message;
use wire::subjects::{attempt_subject, attempts_subject};
use wire::v1::Attempt;

use crate::delivery_info::DeliveryInfo;
use broker::delete::delete_message;
use broker::publish::{PublishError, RetryDeadline};
use broker::stream_states::StreamStates;

/// How long writing a record is retried. This can be short, because otherwise the job is released and delivered again.
const PATIENCE: Duration = Duration::from_secs(3);

/// The attempts stream.
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
    /// Earlier attempts that failed or never ended.
    pub earlier: u64,
    /// The sequence of this attempt's record, if it has one.
    record: Option<u64>,
}

impl Attempts {
    /// Attempts of the worker `worker_id` in the stream with this name.
    pub fn new(jetstream: Context, stream: &str, worker_id: &str) -> Self {
        let (stream, worker_id) = (stream.to_owned(), worker_id.to_owned());
        Self { jetstream, stream, worker_id, states: StreamStates::default() }
    }

    /// The same, which records in `states` whether the stream accepts messages.
    #[must_use]
    pub fn with_stream_states(self, states: StreamStates) -> Self {
        Self { states, ..self }
    }

    /// Counts the earlier attempts at a redelivered job and records this one. Does nothing for a first delivery.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] if the stream cannot be read or written: the job must not be started.
    pub async fn start(&self, job: &DeliveryInfo) -> Result<Started, PublishError> {
        if job.deliveries <= 1 {
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

    async fn count_and_record(&self, job: &DeliveryInfo) -> Result<Started, async_nats::Error> {
        let own = attempt_subject(job.sequence, job.published_nanos, job.deliveries);
        let earlier =
            self.recorded(job).await?.into_iter().filter(|delivery| *delivery != job.deliveries).count() as u64;
        let record = self.write(&own, "").await?;
        Ok(Started { earlier, record: Some(record) })
    }

    /// Deletes the record of an attempt that does not count. Best effort: if the server does not respond, the attempt
    /// counts.
    pub async fn release(&self, started: Started) {
        let Some(record) = started.record else { return };
        if let Err(error) = delete_message(&self.jetstream, &self.stream, record).await {
            tracing::debug!(%error, "the record of an attempt that does not count could not be deleted");
        }
    }

    /// Records why an attempt failed. Best effort: if the stream does not accept the record, a first attempt does not
    /// count.
    pub async fn fail(&self, job: &DeliveryInfo, error: &str) {
        let subject = attempt_subject(job.sequence, job.published_nanos, job.deliveries);
        if let Err(error) = self.write(&subject, error).await {
            self.states.record_error(&self.jetstream, &self.stream, error.as_ref()).await;
            tracing::debug!(%error, "a failed attempt could not be recorded");
        }
    }

    /// The error of the last attempt at the job that recorded one.
    pub async fn last_error(&self, job: &DeliveryInfo) -> Option<String> {
        match self.find_last_error(job).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "the errors of earlier attempts could not be read");
                None
            }
        }
    }

    async fn find_last_error(&self, job: &DeliveryInfo) -> Result<Option<String>, async_nats::Error> {
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

    /// The number of the last delivery that has a record, or 0.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub(crate) async fn last_delivery(&self, job: &DeliveryInfo) -> Result<u64, async_nats::Error> {
        Ok(self.recorded(job).await?.last().copied().unwrap_or(0))
    }

    /// Deletes all records of a job that has ended. Best effort: the stream has a maximum age.
    pub async fn forget(&self, job: &DeliveryInfo) {
        let purged = async {
            let stream: Stream<()> = self.jetstream.get_stream_no_info(&self.stream).await?;
            stream.purge().filter(attempts_subject(job.sequence, job.published_nanos)).await?;
            Ok::<_, async_nats::Error>(())
        };
        if let Err(error) = purged.await {
            tracing::debug!(%error, "the attempts of a job that has ended could not be deleted");
        }
    }

    /// The numbers of the deliveries that have a record, in ascending order.
    async fn recorded(&self, job: &DeliveryInfo) -> Result<Vec<u64>, async_nats::Error> {
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

    fn unavailable(&self, job: &DeliveryInfo, cause: async_nats::Error) -> PublishError {
        let subject = attempts_subject(job.sequence, job.published_nanos);
        PublishError::Unavailable { subject, stream: self.stream.clone(), cause }
    }
}
