//! The retries stream, in which jobs wait for another attempt, so that new jobs do not wait behind them.
//!
//! A consumer delivers redeliveries before new messages and counts each job in a retry delay as pending. In the jobs
//! stream, jobs that fail repeatedly would therefore delay all others. In the retries stream they have a consumer, job
//! slots and a limit on pending messages of their own.
//!
//! A job moves once: its copy is published, then the message in the jobs stream is acknowledged. From then on the copy
//! is redelivered until the job ends, and then deleted. A worker that dies before the acknowledgement leaves both. They
//! share one identity, that of the message in the jobs stream, so the first outcome counts for both.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{Context, message::PublishMessage};
use bytes::Bytes;
use telemetry::Instruments;
use telemetry::attributes::Destination;
use wire::Message;
use wire::subjects::retry_subject;
use wire::v1::Retry;

use crate::delivery::Delivery;
use crate::delivery_info::DeliveryInfo;
use crate::telemetry_words::publish_error;
use broker::delete::delete_message;
use broker::leader;
use broker::publish::{PublishError, RetryDeadline, too_large};

/// How long publishing a copy is retried. If it fails, the job stays in the jobs stream.
const PATIENCE: Duration = Duration::from_secs(3);

/// The retries stream.
#[derive(Debug, Clone)]
pub(crate) struct Retries {
    jetstream: Context,
    stream: String,
    instruments: Instruments,
}

impl Retries {
    /// Retries in the stream with this name.
    pub(crate) fn new(jetstream: Context, stream: &str, instruments: Instruments) -> Self {
        Self { jetstream, stream: stream.to_owned(), instruments }
    }

    /// Publishes a copy of a job, which is delivered after `delay`. Does nothing if there is one already.
    ///
    /// # Errors
    /// [`PublishError`]; the job must then stay in the jobs stream.
    pub(crate) async fn publish(&self, job: &Delivery, delay: Duration) -> Result<(), PublishError> {
        let info = job.info();
        let retry = Retry {
            job: job.payload().clone(),
            subject: job.subject().to_owned(),
            stream: info.stream.clone(),
            stream_sequence: info.sequence,
            published_nanos: info.published_nanos,
            deliveries: info.deliveries,
            delay_nanos: u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX),
        };
        self.store(&retry, job.telemetry.submitter_headers(), 0).await
    }

    /// Publishes a copy, unless the stream has one whose sequence is greater than `replaced`, the sequence of an earlier
    /// copy or 0.
    ///
    /// # Errors
    /// [`PublishError`].
    pub(crate) async fn store(&self, retry: &Retry, headers: HeaderMap, replaced: u64) -> Result<(), PublishError> {
        let subject = retry_subject(&retry.subject, retry.stream_sequence, retry.published_nanos);
        let payload = Bytes::from(retry.encode_to_vec());
        let mut patience = RetryDeadline::after(PATIENCE);
        loop {
            let message = PublishMessage::build()
                .payload(payload.clone())
                .headers(headers.clone())
                .expected_stream(&self.stream)
                .expected_last_subject_sequence(replaced);
            let error = match self.send(&subject, message).await {
                Ok(()) => return Ok(()),
                Err(error) if too_large(&error) => {
                    return Err(PublishError::TooLarge { subject, bytes: payload.len() });
                }
                // A copy exists from an earlier delivery, or from this one and its acknowledgement was lost; or another
                // write is in progress that may still fail.
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                    match self.last_sequence(&subject).await {
                        Ok(last) if last > replaced => return Ok(()),
                        Ok(_) => error.into(),
                        Err(error) => error,
                    }
                }
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
        let started = Instant::now();
        let published = async { self.jetstream.send_publish(subject.to_owned(), message).await?.await };
        let published = published.await.map(drop);
        let result = published.as_ref().copied().map_err(publish_error);
        self.instruments.message_published(Destination::Retries, result, started.elapsed());
        published
    }

    /// The sequence of the last copy of a job that was published to `subject`, or 0 if there is none.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub(crate) async fn last_copy(&self, subject: &str, job: &DeliveryInfo) -> Result<u64, async_nats::Error> {
        self.last_sequence(&retry_subject(subject, job.sequence, job.published_nanos)).await
    }

    /// Whether no job has a copy. `false` if the server does not say.
    pub(crate) async fn is_empty(&self) -> bool {
        let stream = self.jetstream.get_stream(&self.stream).await;
        stream.is_ok_and(|stream| stream.cached_info().state.messages == 0)
    }

    /// Deletes the last copy of a job that has ended, if there is one. No acknowledgement removes it.
    ///
    /// It is looked up by its subject, because in a recreated stream another job has the same sequence. A purge of the
    /// subject would do, but in a cluster, a server that purges takes all copies for acknowledged that it cannot read.
    ///
    /// # Errors
    /// If the server does not confirm; the copy is delivered again and finds the job's outcome.
    pub(crate) async fn delete_copy(&self, subject: &str, job: &DeliveryInfo) -> Result<(), async_nats::Error> {
        let sequence = self.last_copy(subject, job).await?;
        if sequence > 0 {
            // Another worker may have deleted it in the meantime.
            delete_message(&self.jetstream, &self.stream, sequence).await?;
        }
        Ok(())
    }

    async fn last_sequence(&self, subject: &str) -> Result<u64, async_nats::Error> {
        leader::last_sequence(&self.stream().await?, subject, None).await
    }

    async fn stream(&self) -> Result<Stream<()>, async_nats::Error> {
        Ok(self.jetstream.get_stream_no_info(&self.stream).await?)
    }
}
