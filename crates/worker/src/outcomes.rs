//! What becomes of a job, written down before it is published: the first outcome counts, whoever comes to another.
//!
//! A job can be in two hands: its worker stood still for longer than `ack_wait`, or its acknowledgement was lost. If
//! the object has gone in between, one hand has an annotation and the other a failure. The stream of outcomes decides:
//! one subject for each message of the jobs stream, written only while it is empty, read from the stream's leader. Who
//! comes second publishes what the first wrote, under the same id.

use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context, ErrorCode, message::PublishMessage};
use bytes::Bytes;
use wire::Message;
use wire::subjects::outcome_subject;
use wire::v1::{Outcome, Settled, outcome};

use crate::delivery::DeliveryFacts;
use broker::publish::{PublishError, RetryDeadline, too_large};
use broker::server_time;
use broker::stream_states::StreamStates;

/// Outcomes as they are written and read.
#[derive(Debug, Clone)]
pub struct Outcomes {
    jetstream: Context,
    stream: String,
    patience: Duration,
    states: StreamStates,
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

impl Claim {
    /// Its sequence in the stream of outcomes.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// Why an outcome was not replaced by a short record.
#[derive(Debug)]
pub(crate) enum SettleError {
    /// The stream does not allow an age of single messages.
    Disabled,
    /// It may go well later.
    NotNow(async_nats::Error),
}

fn knows_no_ttl(error: &jetstream::context::PublishError) -> bool {
    let source = std::error::Error::source(error);
    let said = source.and_then(|source| source.downcast_ref::<jetstream::Error>());
    said.is_some_and(|said| said.error_code() == ErrorCode::MESSAGE_TTL_DISABLED)
}

impl Outcomes {
    /// Outcomes in the stream of this name; each call tries for as long as `patience`.
    pub fn new(jetstream: Context, stream: &str, patience: Duration) -> Self {
        Self { jetstream, stream: stream.to_owned(), patience, states: StreamStates::default() }
    }

    /// The same, telling whether the stream takes messages.
    #[must_use]
    pub fn watched(self, states: StreamStates) -> Self {
        Self { states, ..self }
    }

    /// What counts for a job, if anything was written.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] if the stream cannot be read.
    pub async fn find(&self, job: &DeliveryFacts) -> Result<Option<Claim>, PublishError> {
        let subject = outcome_subject(job.sequence, job.published_nanos);
        let mut patience = RetryDeadline::after(self.patience);
        loop {
            let error = match self.read(&subject).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            self.states.record_error(&self.jetstream, &self.stream, error.as_ref()).await;
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

    /// A failure that is too large is written without the bytes of its job.
    async fn write(&self, job: &DeliveryFacts, outcome: Outcome, after: u64) -> Result<Claim, PublishError> {
        let Some(outcome::Record::Failure(failure)) = &outcome.record else {
            return self.write_whole(job, outcome, after).await;
        };
        let lean = failure.without_job().map(outcome::Record::Failure);
        match (self.write_whole(job, outcome.clone(), after).await, lean) {
            (Err(PublishError::TooLarge { .. }), Some(lean)) => {
                self.write_whole(job, Outcome { record: Some(lean), ..outcome }, after).await
            }
            (written, _) => written,
        }
    }

    async fn write_whole(&self, job: &DeliveryFacts, outcome: Outcome, after: u64) -> Result<Claim, PublishError> {
        let subject = outcome_subject(job.sequence, job.published_nanos);
        let payload = Bytes::from(outcome.encode_to_vec());
        let mut patience = RetryDeadline::after(self.patience);
        loop {
            let message = PublishMessage::build()
                .payload(payload.clone())
                .expected_stream(&self.stream)
                .expected_last_subject_sequence(after);
            let error = match self.publish(&subject, message).await {
                Ok(sequence) => {
                    self.states.record_success(&self.stream);
                    return Ok(Claim { outcome, sequence, age: Duration::ZERO });
                }
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
            self.states.record_error(&self.jetstream, &self.stream, error.as_ref()).await;
            if !patience.pause().await {
                return Err(self.unavailable(subject, error));
            }
        }
    }

    /// Puts a short record, kept for as long as `keep`, in the place of the outcome of a job that has left the queue.
    /// Does nothing if the outcome is no longer the last one of its job.
    pub(crate) async fn settle(
        &self,
        job: &DeliveryFacts,
        after: u64,
        settled: Settled,
        keep: Duration,
    ) -> Result<(), SettleError> {
        let subject = outcome_subject(job.sequence, job.published_nanos);
        let record = Some(outcome::Record::Settled(settled));
        let payload = Outcome { record, ..Outcome::default() }.encode_to_vec();
        // Whole seconds are counted. The sequence names the stream as well as its name would, in fewer bytes.
        let message = PublishMessage::build()
            .payload(payload.into())
            .ttl(keep + Duration::from_secs(1))
            .expected_last_subject_sequence(after);
        match self.publish(&subject, message).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(()),
            Err(error) if knows_no_ttl(&error) => Err(SettleError::Disabled),
            Err(error) => Err(SettleError::NotNow(error.into())),
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
