//! Jobs between two attempts: they wait in a stream of their own, so that new jobs do not wait behind them.
//!
//! A consumer hands redeliveries out before anything new, and counts each job in a retry delay as pending. In the jobs
//! stream, jobs that fail again and again would therefore hold back all others. Here they have a consumer, slots and
//! pending messages of their own.
//!
//! A job moves once: its copy is published, then the message in the jobs stream is acknowledged. From then on the copy
//! is redelivered until the job ends. A worker that dies in between leaves both. They have one identity, that of the
//! message in the jobs stream, so the first outcome counts for both of them.

use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, message::PublishMessage};
use bytes::Bytes;
use wire::Message;
use wire::subjects::retry_subject;
use wire::v1::Retry;

use crate::delivery::{Delivery, DeliveryFacts};
use broker::publish::{PublishError, RetryDeadline, too_large};

/// How long a copy is tried to be published for. Without one the job stays in the jobs stream.
const PATIENCE: Duration = Duration::from_secs(3);

/// The stream of retries.
#[derive(Debug, Clone)]
pub(crate) struct Retries {
    jetstream: Context,
    stream: String,
}

impl Retries {
    /// Retries in the stream of this name.
    pub(crate) fn new(jetstream: Context, stream: &str) -> Self {
        Self { jetstream, stream: stream.to_owned() }
    }

    /// Publishes the copy of a job that is to be delivered again after `delay`. Does nothing where there is one already.
    ///
    /// # Errors
    /// [`PublishError`]; the job must then stay in the jobs stream.
    pub(crate) async fn publish(&self, job: &Delivery, delay: Duration) -> Result<(), PublishError> {
        let facts = job.facts();
        let subject = retry_subject(job.subject(), facts.sequence, facts.published_nanos);
        let retry = Retry {
            job: job.payload().clone(),
            subject: job.subject().to_owned(),
            stream: facts.stream.clone(),
            stream_sequence: facts.sequence,
            published_nanos: facts.published_nanos,
            deliveries: facts.attempt,
            delay_nanos: u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX),
        };
        let payload = Bytes::from(retry.encode_to_vec());
        let mut patience = RetryDeadline::after(PATIENCE);
        loop {
            let message = PublishMessage::build()
                .payload(payload.clone())
                .expected_stream(&self.stream)
                .expected_last_subject_sequence(0);
            let error = match self.send(&subject, message).await {
                Ok(()) => return Ok(()),
                Err(error) if too_large(&error) => {
                    return Err(PublishError::TooLarge { subject, bytes: payload.len() });
                }
                // There is a copy from an earlier delivery, or from this one with the acknowledgement lost; or a write
                // is under way that may still fail.
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => match self.has(&subject).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => error.into(),
                    Err(error) => error,
                },
                Err(error) => error.into(),
            };
            if !patience.pause().await {
                return Err(PublishError::Unavailable { subject, stream: self.stream.clone(), cause: error });
            }
        }
    }

    async fn send(
        &self,
        subject: &str,
        message: PublishMessage,
    ) -> Result<(), async_nats::jetstream::context::PublishError> {
        self.jetstream.send_publish(subject.to_owned(), message).await?.await?;
        Ok(())
    }

    /// Whether a message of the jobs stream that was published to `subject` has a copy here.
    ///
    /// # Errors
    /// The stream cannot be read.
    pub(crate) async fn has_copy_of(&self, subject: &str, job: &DeliveryFacts) -> Result<bool, async_nats::Error> {
        self.has(&retry_subject(subject, job.sequence, job.published_nanos)).await
    }

    /// Removes the copy of a job that has ended in another delivery. Best effort: it would find the outcome.
    pub(crate) async fn forget(&self, subject: &str, job: &DeliveryFacts) {
        let purged = async {
            let stream: Stream<()> = self.jetstream.get_stream_no_info(&self.stream).await?;
            stream.purge().filter(retry_subject(subject, job.sequence, job.published_nanos)).await?;
            Ok::<_, async_nats::Error>(())
        };
        if let Err(error) = purged.await {
            tracing::debug!(%error, "the copy of a job that has ended could not be removed");
        }
    }

    async fn has(&self, subject: &str) -> Result<bool, async_nats::Error> {
        let stream: Stream<()> = self.jetstream.get_stream_no_info(&self.stream).await?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
