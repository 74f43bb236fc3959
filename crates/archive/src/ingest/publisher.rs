//! Stores jobs, and waits while they cannot be stored.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use broker::backoff::{Backoff, Delays};
use broker::connection::Connection;
use broker::publish::{stream_full, too_large};
use broker::stream_states::StreamStates;
use bytes::Bytes;
use telemetry::Instruments;
use telemetry::attributes::{Destination, MessagingError};
use telemetry::ingest_attributes::IngestReason;
use tokio_util::sync::CancellationToken;

/// Delays between the attempts to publish one job. Its id makes it safe to publish again.
const RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
/// Time that is left for the last attempt before the deadline.
const LAST_ATTEMPT: Duration = Duration::from_millis(500);

/// Publishes jobs to the jobs stream.
#[derive(Clone)]
pub(super) struct JobPublisher {
    pub(super) connection: Connection,
    pub(super) jetstream: Context,
    /// The name of the jobs stream.
    pub(super) stream: String,
    pub(super) states: StreamStates,
    pub(super) instruments: Instruments,
    /// Ends the waiting.
    pub(super) shutdown: CancellationToken,
}

/// A job as a message.
#[derive(Debug)]
pub(super) struct JobMessage {
    pub(super) subject: String,
    pub(super) id: String,
    pub(super) payload: Bytes,
}

/// What the jobs stream did with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PublishOutcome {
    /// It stored it.
    New,
    /// It had it already.
    Duplicate,
}

impl JobPublisher {
    /// Publishes a job, and waits for the stream's acknowledgement. Tries again until the deadline.
    ///
    /// # Errors
    /// Why it is not stored.
    pub(super) async fn publish(
        &self,
        job: &JobMessage,
        headers: &HeaderMap,
        deadline: Instant,
    ) -> Result<PublishOutcome, IngestReason> {
        let mut delays = Delays::of(RETRY_BACKOFF);
        let mut reason = IngestReason::Unavailable;
        loop {
            // What is published without a connection would be sent with the next one, however late that is made.
            let up = tokio::time::timeout_at(deadline.into(), self.connection.wait_until_up());
            tokio::select! {
                biased;
                up = up => up.map(drop).map_err(|_| reason)?,
                () = self.shutdown.cancelled() => return Err(IngestReason::ShuttingDown),
            }
            match tokio::time::timeout_at(deadline.into(), self.publish_once(job, headers)).await {
                Ok(Ok(stored)) => return Ok(stored),
                Ok(Err(error)) if too_large(&error) => return Err(IngestReason::JobTooLarge),
                Ok(Err(error)) => {
                    tracing::debug!(%error, subject = job.subject, "publish failed");
                    reason = if stream_full(&error) { IngestReason::StreamFull } else { IngestReason::Unavailable };
                }
                Err(_) => return Err(reason),
            }
            let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(LAST_ATTEMPT);
            if left.is_zero() {
                return Err(reason);
            }
            tokio::select! {
                () = tokio::time::sleep(delays.after_failure().min(left)) => {}
                () = self.shutdown.cancelled() => return Err(IngestReason::ShuttingDown),
            }
        }
    }

    async fn publish_once(&self, job: &JobMessage, headers: &HeaderMap) -> Result<PublishOutcome, PublishError> {
        let started = Instant::now();
        let message = PublishMessage::build().payload(job.payload.clone()).headers(headers.clone());
        // Without the stream's name, any stream with this subject would accept the message.
        let message = message.message_id(&job.id).expected_stream(&self.stream);
        let published = async { self.jetstream.send_publish(job.subject.clone(), message).await?.await }.await;
        self.measure(&published, started.elapsed());
        match published {
            Ok(ack) if ack.duplicate => Ok(PublishOutcome::Duplicate),
            Ok(_) => {
                self.states.record_success(&self.stream);
                Ok(PublishOutcome::New)
            }
            Err(error) => {
                self.states.record_error(&self.jetstream, &self.stream, &error).await;
                Err(error)
            }
        }
    }

    fn measure<T>(&self, published: &Result<T, PublishError>, duration: Duration) {
        let result = published.as_ref().map(drop).map_err(|error| match error.kind() {
            _ if too_large(error) => MessagingError::TooLarge,
            _ if stream_full(error) => MessagingError::StreamFull,
            PublishErrorKind::TimedOut => MessagingError::Timeout,
            PublishErrorKind::StreamNotFound | PublishErrorKind::BrokenPipe => MessagingError::Unavailable,
            _ => MessagingError::Other,
        });
        self.instruments.message_published(Destination::Jobs, result, duration);
    }
}
