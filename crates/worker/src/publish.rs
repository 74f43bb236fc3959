//! Putting annotations and failures into their streams, and knowing that they are there.

use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::{Context, ErrorCode, message::PublishMessage};
use bytes::Bytes;
use protocol::Message;
use protocol::v1::{ImageAnnotation, JobFailure};

/// Waits between the tries of one publish. The id makes tries after lost acknowledgements harmless, and what is
/// published has cost a whole generation.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// Publishes annotations and failures.
#[derive(Debug, Clone)]
pub struct Publisher {
    jetstream: Context,
    annotations_stream: String,
    failed_stream: String,
}

/// Proof that a stream holds a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    sequence: u64,
    duplicate: bool,
}

impl Receipt {
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
    #[error("the stream {stream} did not take a message for {subject}: {source}")]
    Unavailable {
        /// Where it was to go.
        subject: String,
        /// The stream that should have taken it.
        stream: String,
        /// What the server or the connection said.
        source: async_nats::jetstream::context::PublishError,
    },
}

impl Publisher {
    /// A publisher into the streams of these names.
    pub fn new(jetstream: Context, annotations_stream: &str, failed_stream: &str) -> Self {
        let (annotations_stream, failed_stream) = (annotations_stream.to_owned(), failed_stream.to_owned());
        Self { jetstream, annotations_stream, failed_stream }
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
            Err(PublishError::TooLarge { bytes, .. }) => {
                tracing::warn!(bytes, subject, "a failure is published without its job, which is too large");
                let lean = JobFailure { job: Bytes::new(), job_omitted: true, ..failure };
                self.publish(&self.failed_stream, subject, id, lean.encode_to_vec().into()).await
            }
            ended => ended,
        }
    }

    async fn publish(
        &self,
        stream: &str,
        subject: String,
        id: String,
        payload: Bytes,
    ) -> Result<Receipt, PublishError> {
        let mut pauses = PAUSES.iter();
        loop {
            match self.publish_once(stream, &subject, &id, payload.clone()).await {
                Ok(receipt) => return Ok(receipt),
                Err(error) if too_large(&error) => {
                    return Err(PublishError::TooLarge { subject, bytes: payload.len() });
                }
                Err(source) => match pauses.next() {
                    None => return Err(PublishError::Unavailable { subject, stream: stream.to_owned(), source }),
                    Some(pause) => {
                        tracing::debug!(%source, subject, "publishing again in {pause:?}");
                        tokio::time::sleep(*pause).await;
                    }
                },
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

fn too_large(error: &async_nats::jetstream::context::PublishError) -> bool {
    if error.kind() == PublishErrorKind::MaxPayloadExceeded {
        return true;
    }
    let source = std::error::Error::source(error);
    let refused = source.and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
    // `expected_stream` and sizes are refused under the same kind; the code tells them apart.
    refused.is_some_and(|refused| refused.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)
}
