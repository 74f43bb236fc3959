//! What becomes of a job, written down before it is published: the first outcome counts, whoever comes to another.
//!
//! A job can be in two hands: its worker stood still for longer than `ack_wait`, or its acknowledgement was lost. If
//! the object has gone in between, one hand has an annotation and the other a failure. The stream of outcomes decides:
//! one subject for each message of the jobs stream, written only while it is empty, read from the stream's leader. Who
//! comes second publishes what the first wrote, under the same id.

use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, message::PublishMessage};
use bytes::Bytes;
use protocol::Message;
use protocol::subjects::outcome_subject;
use protocol::v1::Outcome;

use crate::delivery::DeliveryFacts;
use crate::publish::{Patience, PublishError, too_large};
use crate::server_time;

/// Outcomes as they are written and read.
#[derive(Debug, Clone)]
pub struct Outcomes {
    jetstream: Context,
    stream: String,
    patience: Duration,
}

/// The outcome that counts for a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The outcome, from this delivery or from another one.
    pub outcome: Outcome,
    /// Its sequence in the stream of outcomes.
    sequence: u64,
    /// How long ago it was written, by the server's clock.
    pub age: Duration,
}

impl Outcomes {
    /// Outcomes in the stream of this name; each call tries for as long as `patience`.
    pub fn new(jetstream: Context, stream: &str, patience: Duration) -> Self {
        Self { jetstream, stream: stream.to_owned(), patience }
    }

    /// What counts for a job, if anything was written.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] if the stream cannot be read.
    pub async fn find(&self, job: &DeliveryFacts) -> Result<Option<Claim>, PublishError> {
        let subject = outcome_subject(job.sequence, job.published_nanos);
        let mut patience = Patience::new(self.patience);
        loop {
            let error = match self.read(&subject).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            if !patience.pause().await {
                return Err(self.unavailable(subject, error));
            }
        }
    }

    /// Writes an outcome down, if none was before; gives the one that counts.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn claim(&self, job: &DeliveryFacts, outcome: Outcome) -> Result<Claim, PublishError> {
        self.write(job, outcome, 0).await
    }

    /// Puts an outcome in the place of one that can never be published; gives the one that counts.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn replace(&self, job: &DeliveryFacts, claim: &Claim, outcome: Outcome) -> Result<Claim, PublishError> {
        self.write(job, outcome, claim.sequence).await
    }

    async fn write(&self, job: &DeliveryFacts, outcome: Outcome, after: u64) -> Result<Claim, PublishError> {
        let subject = outcome_subject(job.sequence, job.published_nanos);
        let payload = Bytes::from(outcome.encode_to_vec());
        let mut patience = Patience::new(self.patience);
        loop {
            let message = PublishMessage::build()
                .payload(payload.clone())
                .expected_stream(&self.stream)
                .expected_last_subject_sequence(after);
            let error = match self.publish(&subject, message).await {
                Ok(sequence) => return Ok(Claim { outcome, sequence, age: Duration::ZERO }),
                Err(error) if too_large(&error) => {
                    return Err(PublishError::TooLarge { subject, bytes: payload.len() });
                }
                // Somebody was first; or we were, and the acknowledgement was lost.
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => match self.read(&subject).await {
                    Ok(Some(claim)) if claim.sequence != after => return Ok(claim),
                    // Refused because of a write that is not yet through, or one that has outlived its age.
                    Ok(_) => error.into(),
                    Err(said) => said,
                },
                Err(error) => error.into(),
            };
            if !patience.pause().await {
                return Err(self.unavailable(subject, error));
            }
        }
    }

    async fn publish(
        &self,
        subject: &str,
        message: PublishMessage,
    ) -> Result<u64, async_nats::jetstream::context::PublishError> {
        Ok(self.jetstream.send_publish(subject.to_owned(), message).await?.await?.sequence)
    }

    async fn read(&self, subject: &str) -> Result<Option<Claim>, async_nats::Error> {
        let stream: Stream<()> = self.jetstream.get_stream_no_info(&self.stream).await?;
        // Not the direct way: a follower may answer it, and may not have yet what the leader has.
        let message = match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let age = server_time::age(&self.jetstream, &self.stream, message.time).await?;
        Ok(Some(Claim { outcome: Outcome::decode(message.payload)?, sequence: message.sequence, age }))
    }

    fn unavailable(&self, subject: String, cause: async_nats::Error) -> PublishError {
        PublishError::Unavailable { subject, stream: self.stream.clone(), cause }
    }
}
