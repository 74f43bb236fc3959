//! Putting annotations and failures into their streams, and knowing that they are there.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{Context, ErrorCode, message::PublishMessage};
use bytes::Bytes;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::v1::{ImageAnnotation, JobFailure, Outcome, outcome};

use crate::backoff::{Backoff, Delays};
use crate::causes::causes;
use crate::server_time;
use crate::stream_states::StreamStates;

/// Waits between the tries of one publish; the last one for as long as there is patience. The id makes tries after lost
/// acknowledgements harmless, and what is published has cost a whole generation.
const TRY_AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(4));
/// How long to try where nobody says.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(7);
/// How long the look into a stream's past may go without a message.
const LOOK_SILENCE: Duration = Duration::from_secs(15);

/// Publishes annotations and failures.
#[derive(Debug, Clone)]
pub struct Publisher {
    jetstream: Context,
    annotations_stream: String,
    failed_stream: String,
    patience: Duration,
    stop: CancellationToken,
    states: StreamStates,
}

/// When to try again, and when to give up.
#[derive(Debug)]
pub struct Patience {
    until: Instant,
    delays: Delays,
}

impl Patience {
    /// Tries for as long as this.
    pub fn new(patience: Duration) -> Self {
        Self { until: Instant::now() + patience, delays: Delays::of(TRY_AGAIN) }
    }

    /// Waits before the next try; false if there is to be none.
    pub async fn pause(&mut self) -> bool {
        let delay = self.delays.after_failure();
        if Instant::now() + delay > self.until {
            return false;
        }
        tokio::time::sleep(delay).await;
        true
    }
}

/// Proof that a stream holds a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    sequence: u64,
    duplicate: bool,
}

impl Receipt {
    /// Of a message that another delivery of the job is known to have put there.
    pub fn earlier(sequence: u64) -> Self {
        Self { sequence, duplicate: true }
    }

    /// The message's sequence in its stream.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether the stream had it before, from an earlier delivery of the job.
    pub fn duplicate(&self) -> bool {
        self.duplicate
    }
}

/// Why a stream does not hold a message.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// More bytes than the server or the stream takes.
    #[error(
        "a message of {bytes} bytes for {subject} is more than the NATS server or its stream takes: raise max_payload"
    )]
    TooLarge {
        /// Where it was to go.
        subject: String,
        /// The message's size in bytes, headers not counted.
        bytes: usize,
    },
    /// No stream, no answer, or a refusal that may pass.
    #[error("the stream {stream} did not take a message for {subject}: {}", causes(cause.as_ref()))]
    Unavailable {
        /// Where it was to go.
        subject: String,
        /// The stream that should have taken it.
        stream: String,
        /// What the server or the connection said.
        cause: async_nats::Error,
    },
    /// The outcome is written down, but others may have finished the job before and its outcome be forgotten.
    #[error(
        "the worker had the job for longer than its lease, or stood still: if the job is not finished, its outcome is published at its next delivery"
    )]
    Late,
}

impl Publisher {
    /// A publisher into the streams of these names.
    pub fn new(jetstream: Context, annotations_stream: &str, failed_stream: &str) -> Self {
        let (annotations_stream, failed_stream) = (annotations_stream.to_owned(), failed_stream.to_owned());
        let (patience, stop) = (DEFAULT_PATIENCE, CancellationToken::new());
        Self { jetstream, annotations_stream, failed_stream, patience, stop, states: StreamStates::default() }
    }

    /// The same, telling whether the streams take messages.
    #[must_use]
    pub fn watched(self, states: StreamStates) -> Self {
        Self { states, ..self }
    }

    /// The same, but from this moment on each message is tried once: its outcome is written down, so another worker can
    /// publish it, and this one need not wait at its end.
    #[must_use]
    pub fn once_after(self, stop: CancellationToken) -> Self {
        Self { stop, ..self }
    }

    /// The same, trying for as long as this.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Publishes what an outcome says, under the id that it names, and waits for the stream's acknowledgement.
    ///
    /// # Errors
    /// [`PublishError`], after some tries where trying again is of use.
    pub async fn outcome(&self, outcome: &Outcome) -> Result<Receipt, PublishError> {
        let (subject, id) = (outcome.subject.clone(), outcome.message_id.clone());
        match &outcome.record {
            Some(outcome::Record::Failure(failure)) => self.failure(subject, id, failure.clone()).await,
            Some(outcome::Record::Annotation(annotation)) => {
                self.publish(&self.annotations_stream, subject, id, annotation.encode_to_vec().into()).await
            }
            // What is settled is not published again.
            Some(outcome::Record::Settled(settled)) => Ok(Receipt::earlier(settled.sequence)),
            None => {
                let cause = "a newer version of Groundling wrote down a kind of outcome that this one does not know";
                Err(PublishError::Unavailable { subject, stream: self.annotations_stream.clone(), cause: cause.into() })
            }
        }
    }

    /// Looks whether the stream holds what an outcome says, among all that came since `age` ago: for outcomes so old
    /// that the stream may have forgotten their ids.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`].
    pub async fn holds(&self, outcome: &Outcome, age: Duration) -> Result<Option<Receipt>, PublishError> {
        let stream = match &outcome.record {
            Some(outcome::Record::Failure(_)) => &self.failed_stream,
            _ => &self.annotations_stream,
        };
        self.look(stream, outcome, age).await.map_err(|cause| PublishError::Unavailable {
            subject: outcome.subject.clone(),
            stream: stream.clone(),
            cause,
        })
    }

    async fn look(&self, stream: &str, outcome: &Outcome, age: Duration) -> Result<Option<Receipt>, async_nats::Error> {
        // A minute for clocks of a cluster's servers that differ.
        let since = server_time::now(&self.jetstream, stream).await? - age.saturating_add(Duration::from_secs(60));
        let config = pull::OrderedConfig {
            // With a name, permissions can be given for the stream alone.
            name: Some(format!("groundling-look-{}", uuid::Uuid::new_v4().simple())),
            filter_subject: outcome.subject.clone(),
            headers_only: true,
            deliver_policy: DeliverPolicy::ByStartTime { start_time: since },
            ..pull::OrderedConfig::default()
        };
        let stream: Stream<()> = self.jetstream.get_stream_no_info(stream).await?;
        let consumer = stream.create_consumer(config).await?;
        let mut left = consumer.cached_info().num_pending;
        let mut messages = consumer.messages().await?;
        while left > 0 {
            let message = tokio::time::timeout(LOOK_SILENCE, messages.next()).await?.ok_or("the stream ended")??;
            let facts = message.info()?;
            let id = message.headers.as_ref().and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID));
            if id.is_some_and(|id| id.as_str() == outcome.message_id) {
                return Ok(Some(Receipt { sequence: facts.stream_sequence, duplicate: true }));
            }
            left = facts.pending;
        }
        Ok(None)
    }

    /// Publishes an annotation under its own id and waits for the stream's acknowledgement.
    ///
    /// # Errors
    /// [`PublishError`], after some tries where trying again is of use.
    pub async fn annotation(&self, subject: String, annotation: &ImageAnnotation) -> Result<Receipt, PublishError> {
        let id = annotation.annotation_id.clone();
        self.publish(&self.annotations_stream, subject, id, annotation.encode_to_vec().into()).await
    }

    /// Publishes a failure under `id` and waits for the stream's acknowledgement. If it is too large with the job's
    /// bytes in it, it goes without them, as `job_omitted` says.
    ///
    /// # Errors
    /// [`PublishError`], after some tries where trying again is of use.
    pub async fn failure(&self, subject: String, id: String, failure: JobFailure) -> Result<Receipt, PublishError> {
        let whole = failure.encode_to_vec().into();
        match self.publish(&self.failed_stream, subject.clone(), id.clone(), whole).await {
            Err(error @ PublishError::TooLarge { .. }) => match failure.without_job() {
                Some(lean) => {
                    tracing::warn!(subject, "a failure is published without its job, which is too large");
                    self.publish(&self.failed_stream, subject, id, lean.encode_to_vec().into()).await
                }
                None => Err(error),
            },
            published => published,
        }
    }

    async fn publish(
        &self,
        stream: &str,
        subject: String,
        id: String,
        payload: Bytes,
    ) -> Result<Receipt, PublishError> {
        let mut patience = Patience::new(self.patience);
        loop {
            let error = match self.publish_once(stream, &subject, &id, payload.clone()).await {
                Ok(receipt) => {
                    // A duplicate is acknowledged without being stored.
                    if !receipt.duplicate {
                        self.states.took(stream);
                    }
                    return Ok(receipt);
                }
                Err(error) => error,
            };
            self.states.refused(&self.jetstream, stream, &error).await;
            if too_large(&error) {
                return Err(PublishError::TooLarge { subject, bytes: payload.len() });
            }
            tracing::debug!(%error, subject, "not published yet");
            let again = tokio::select! {
                biased;
                () = self.stop.cancelled() => false,
                again = patience.pause() => again,
            };
            if !again {
                return Err(PublishError::Unavailable { subject, stream: stream.to_owned(), cause: error.into() });
            }
        }
    }

    async fn publish_once(
        &self,
        stream: &str,
        subject: &str,
        id: &str,
        payload: Bytes,
    ) -> Result<Receipt, async_nats::jetstream::context::PublishError> {
        // Without the stream's name a message could end in any stream that listens to the subject.
        let message = PublishMessage::build().payload(payload).message_id(id).expected_stream(stream);
        let ack = self.jetstream.send_publish(subject.to_owned(), message).await?.await?;
        Ok(Receipt { sequence: ack.sequence, duplicate: ack.duplicate })
    }
}

/// Whether the server or the stream refused a message for its size.
pub fn too_large(error: &async_nats::jetstream::context::PublishError) -> bool {
    if error.kind() == PublishErrorKind::MaxPayloadExceeded {
        return true;
    }
    let source = std::error::Error::source(error);
    let refused = source.and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
    // `expected_stream` and sizes are refused under the same kind; the code tells them apart.
    refused.is_some_and(|refused| refused.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)
}
