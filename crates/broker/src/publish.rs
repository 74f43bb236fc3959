//! Publishing annotations and failures, with retries.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::{Context, ErrorCode, message::PublishMessage};
use bytes::Bytes;
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::v1::{ImageAnnotation, JobFailure, Outcome, outcome};

use crate::backoff::{Backoff, Delays};
use crate::causes::causes;
use crate::read::{Range, read};
use crate::server_time;
use crate::stream_states::{StreamStates, is_full};

/// Delays between the attempts to publish one message. The message id makes it safe to publish again after a lost
/// acknowledgement.
const RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(4));
/// How long a publisher retries unless it is given another timeout.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(7);
/// The longest silence of the server while a stream is searched.
const SEARCH_IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Publishes annotations and failures.
///
/// ```no_run
/// use broker::publish::Publisher;
/// use wire::subjects::{ANNOTATIONS_STREAM, Dataset, FAILED_STREAM};
///
/// # async fn example(
/// #     jetstream: async_nats::jetstream::Context,
/// #     annotation: wire::v1::ImageAnnotation,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let publisher = Publisher::new(jetstream, ANNOTATIONS_STREAM, FAILED_STREAM);
/// let subject = annotation.dataset.parse::<Dataset>()?.annotations_subject();
/// let ack = publisher.annotation(subject, &annotation).await?;
/// println!("sequence {}, duplicate: {}", ack.sequence(), ack.duplicate());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Publisher {
    jetstream: Context,
    annotations_stream: String,
    failed_stream: String,
    timeout: Duration,
    no_retries: CancellationToken,
    states: StreamStates,
}

/// Delays between attempts, until a deadline.
#[derive(Debug)]
pub struct RetryDeadline {
    deadline: Instant,
    delays: Delays,
}

impl RetryDeadline {
    /// Retries until `timeout` from now.
    pub fn after(timeout: Duration) -> Self {
        Self { deadline: Instant::now() + timeout, delays: Delays::of(RETRY_BACKOFF) }
    }

    /// Waits before the next attempt; `false`, at once, if it would start after the deadline.
    pub async fn pause(&mut self) -> bool {
        let delay = self.delays.after_failure();
        if Instant::now() + delay > self.deadline {
            return false;
        }
        tokio::time::sleep(delay).await;
        true
    }
}

/// A stream's acknowledgement of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishAck {
    sequence: u64,
    duplicate: bool,
}

impl PublishAck {
    /// For a message that an earlier delivery of the job has published.
    pub fn duplicate_of(sequence: u64) -> Self {
        Self { sequence, duplicate: true }
    }

    /// The message's sequence in its stream.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether an earlier delivery of the job had published the message.
    pub fn duplicate(&self) -> bool {
        self.duplicate
    }
}

/// Why a message was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The message is larger than the server or the stream accepts.
    #[error(
        "a message of {bytes} bytes for {subject} is larger than the NATS server or its stream accepts: raise max_payload"
    )]
    TooLarge {
        /// The subject of the message.
        subject: String,
        /// The size of the payload in bytes.
        bytes: usize,
    },
    /// The stream does not exist, did not answer, or refused the message for a reason that may be temporary.
    #[error("the stream {stream} did not accept a message for {subject}: {}", causes(cause.as_ref()))]
    Unavailable {
        /// The subject of the message.
        subject: String,
        /// The stream that the message is for.
        stream: String,
        /// The error of the server or the connection.
        cause: async_nats::Error,
    },
    /// The outcome is recorded, but the lease is over: another worker may have finished the job, and its outcome may have
    /// been removed since.
    #[error(
        "the worker held the job for longer than its lease: if no other worker has finished it, its outcome is published at the next delivery"
    )]
    LeaseExpired,
}

impl Publisher {
    /// A publisher for the streams with these names.
    pub fn new(jetstream: Context, annotations_stream: &str, failed_stream: &str) -> Self {
        let (annotations_stream, failed_stream) = (annotations_stream.to_owned(), failed_stream.to_owned());
        let (timeout, no_retries) = (DEFAULT_TIMEOUT, CancellationToken::new());
        Self { jetstream, annotations_stream, failed_stream, timeout, no_retries, states: StreamStates::default() }
    }

    /// Records in `states` which streams accept messages.
    #[must_use]
    pub fn with_stream_states(self, states: StreamStates) -> Self {
        Self { states, ..self }
    }

    /// Publishes without retries once `shutdown` is cancelled. Outcomes are recorded, so another worker can publish them.
    #[must_use]
    pub fn without_retries_after(self, shutdown: CancellationToken) -> Self {
        Self { no_retries: shutdown, ..self }
    }

    /// Retries each message for this long. The default is 7 s.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Publishes the annotation or failure of an outcome with the message id that it names, and waits for the stream's
    /// acknowledgement. A settled outcome is not published again.
    ///
    /// # Errors
    /// [`PublishError`], after retries if the error may be temporary.
    pub async fn outcome(&self, outcome: &Outcome) -> Result<PublishAck, PublishError> {
        self.outcome_with_headers(outcome, &HeaderMap::new()).await
    }

    /// Like [`Publisher::outcome`], with these headers in addition to the message id.
    ///
    /// # Errors
    /// [`PublishError`], after retries if the error may be temporary.
    pub async fn outcome_with_headers(
        &self,
        outcome: &Outcome,
        headers: &HeaderMap,
    ) -> Result<PublishAck, PublishError> {
        let (subject, id) = (outcome.subject.clone(), outcome.message_id.clone());
        match &outcome.record {
            Some(outcome::Record::Failure(failure)) => {
                self.publish_failure(subject, id, failure.clone(), headers).await
            }
            Some(outcome::Record::Annotation(annotation)) => {
                let payload = annotation.encode_to_vec().into();
                self.publish(&self.annotations_stream, subject, id, payload, headers).await
            }
            Some(outcome::Record::Settled(settled)) => Ok(PublishAck::duplicate_of(settled.sequence)),
            None => {
                let cause = "the outcome was recorded by a newer version of Groundling and has a kind that this version does not know";
                Err(PublishError::Unavailable { subject, stream: self.annotations_stream.clone(), cause: cause.into() })
            }
        }
    }

    /// Searches the stream for the message of an outcome, among those published within `age`. For outcomes that are older
    /// than the stream's duplicate window.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] if the stream cannot be read.
    pub async fn find_published(&self, outcome: &Outcome, age: Duration) -> Result<Option<PublishAck>, PublishError> {
        let stream = match &outcome.record {
            Some(outcome::Record::Failure(_)) => &self.failed_stream,
            _ => &self.annotations_stream,
        };
        self.search(stream, outcome, age).await.map_err(|cause| PublishError::Unavailable {
            subject: outcome.subject.clone(),
            stream: stream.clone(),
            cause,
        })
    }

    async fn search(
        &self,
        stream: &str,
        outcome: &Outcome,
        age: Duration,
    ) -> Result<Option<PublishAck>, async_nats::Error> {
        // The clocks of a cluster's servers may differ: one minute more.
        let since = server_time::now(&self.jetstream, stream).await? - age.saturating_add(Duration::from_secs(60));
        let subject = outcome.subject.clone();
        let range = Range { subject, since: Some(since), headers_only: true, deduplicate: false, ..Range::all() };
        let mut messages = std::pin::pin!(read(&self.jetstream, stream, range).await?);
        while let Some(message) = tokio::time::timeout(SEARCH_IDLE_TIMEOUT, messages.try_next()).await?? {
            if message.id.as_ref() == Some(&outcome.message_id) {
                return Ok(Some(PublishAck { sequence: message.sequence, duplicate: true }));
            }
        }
        Ok(None)
    }

    /// Publishes an annotation with its id as the message id, and waits for the stream's acknowledgement.
    ///
    /// # Errors
    /// [`PublishError`], after retries if the error may be temporary.
    pub async fn annotation(&self, subject: String, annotation: &ImageAnnotation) -> Result<PublishAck, PublishError> {
        let id = annotation.annotation_id.clone();
        let payload = annotation.encode_to_vec().into();
        self.publish(&self.annotations_stream, subject, id, payload, &HeaderMap::new()).await
    }

    /// Publishes a failure with `id` as the message id, and waits for the stream's acknowledgement. If it is too large with
    /// the job's bytes, it is published without them and with `job_omitted` set.
    ///
    /// # Errors
    /// [`PublishError`], after retries if the error may be temporary.
    pub async fn failure(&self, subject: String, id: String, failure: JobFailure) -> Result<PublishAck, PublishError> {
        self.publish_failure(subject, id, failure, &HeaderMap::new()).await
    }

    async fn publish_failure(
        &self,
        subject: String,
        id: String,
        failure: JobFailure,
        headers: &HeaderMap,
    ) -> Result<PublishAck, PublishError> {
        let whole = failure.encode_to_vec().into();
        match self.publish(&self.failed_stream, subject.clone(), id.clone(), whole, headers).await {
            Err(error @ PublishError::TooLarge { .. }) => match failure.without_job() {
                Some(lean) => {
                    tracing::warn!(subject, "publishing a failure without the bytes of its job, which are too large");
                    self.publish(&self.failed_stream, subject, id, lean.encode_to_vec().into(), headers).await
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
        headers: &HeaderMap,
    ) -> Result<PublishAck, PublishError> {
        let mut retries = RetryDeadline::after(self.timeout);
        loop {
            let error = match self.publish_once(stream, &subject, &id, payload.clone(), headers).await {
                Ok(ack) => {
                    // A duplicate is acknowledged without being stored.
                    if !ack.duplicate {
                        self.states.record_success(stream);
                    }
                    return Ok(ack);
                }
                Err(error) => error,
            };
            self.states.record_error(&self.jetstream, stream, &error).await;
            if too_large(&error) {
                return Err(PublishError::TooLarge { subject, bytes: payload.len() });
            }
            tracing::debug!(%error, subject, "publish failed");
            let again = tokio::select! {
                biased;
                () = self.no_retries.cancelled() => false,
                again = retries.pause() => again,
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
        headers: &HeaderMap,
    ) -> Result<PublishAck, async_nats::jetstream::context::PublishError> {
        // Without the stream's name, any stream with this subject would accept the message.
        let message = PublishMessage::build().payload(payload).headers(headers.clone());
        let message = message.message_id(id).expected_stream(stream);
        let ack = self.jetstream.send_publish(subject.to_owned(), message).await?.await?;
        Ok(PublishAck { sequence: ack.sequence, duplicate: ack.duplicate })
    }
}

/// Whether the server or the stream refused a message because of its size.
pub fn too_large(error: &async_nats::jetstream::context::PublishError) -> bool {
    if error.kind() == PublishErrorKind::MaxPayloadExceeded {
        return true;
    }
    let source = std::error::Error::source(error);
    let refused = source.and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
    // The error kind is the same for a wrong `expected_stream`; the code is not.
    refused.is_some_and(|refused| refused.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)
}

/// Whether a stream refused a message because it, its account or its server is full.
pub fn stream_full(error: &async_nats::jetstream::context::PublishError) -> bool {
    is_full(error)
}
