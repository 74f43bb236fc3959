//! The outcomes stream, in which a job's outcome is claimed before it is published: the first outcome counts.
//!
//! Two workers can have the same job: the first one was suspended for longer than `ack_wait`, or its acknowledgement
//! was lost. If the object was deleted in between, one worker has an annotation and the other a failure. The outcomes
//! stream decides: it has one subject for each message of the jobs stream, which is written only while it is empty and
//! is read from the stream's leader. The second worker publishes the outcome of the first, under the same id.

use std::time::{Duration, Instant};

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context, ErrorCode, message::PublishMessage};
use bytes::Bytes;
use telemetry::Instruments;
use telemetry::attributes::Destination;
use wire::Message;
use wire::subjects::outcome_subject;
use wire::v1::{Outcome, Settled, outcome};

use crate::delivery_info::DeliveryInfo;
use crate::telemetry_words::publish_error;
use broker::publish::{PublishError, RetryDeadline, too_large};
use broker::server_time;
use broker::stream_states::StreamStates;

/// Writes and reads the outcomes stream.
#[derive(Debug, Clone)]
pub struct Outcomes {
    jetstream: Context,
    stream: String,
    patience: Duration,
    states: StreamStates,
    instruments: Option<Instruments>,
}

/// The outcome that counts for a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The outcome, from this delivery or another one.
    pub outcome: Outcome,
    /// Its sequence in the outcomes stream.
    sequence: u64,
    /// How long ago it was claimed, by the server's clock.
    pub age: Duration,
}

impl Claim {
    /// Its sequence in the outcomes stream.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// Why an outcome was not replaced by a short record.
#[derive(Debug)]
pub(crate) enum CompactError {
    /// The stream does not allow a TTL on single messages.
    Disabled,
    /// A later attempt may succeed.
    Retry(async_nats::Error),
}

fn is_ttl_disabled(error: &jetstream::context::PublishError) -> bool {
    let source = std::error::Error::source(error);
    let response = source.and_then(|source| source.downcast_ref::<jetstream::Error>());
    response.is_some_and(|response| response.error_code() == ErrorCode::MESSAGE_TTL_DISABLED)
}

impl Outcomes {
    /// Outcomes in the stream with this name. Each call retries for as long as `patience`.
    pub fn new(jetstream: Context, stream: &str, patience: Duration) -> Self {
        Self { jetstream, stream: stream.to_owned(), patience, states: StreamStates::default(), instruments: None }
    }

    /// The same, which records in `states` whether the stream accepts messages.
    #[must_use]
    pub fn with_stream_states(self, states: StreamStates) -> Self {
        Self { states, ..self }
    }

    /// The same, which counts and times the messages that it publishes.
    #[must_use]
    pub(crate) fn with_instruments(self, instruments: Instruments) -> Self {
        Self { instruments: Some(instruments), ..self }
    }

    /// The outcome of a job, if one was claimed.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] if the stream cannot be read.
    pub async fn find(&self, job: &DeliveryInfo) -> Result<Option<Claim>, PublishError> {
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

    /// Claims an outcome for a job, unless one was claimed before. Returns the outcome that counts.
    ///
    /// # Errors
    /// [`PublishError`] if the stream does not accept it.
    pub async fn claim(&self, job: &DeliveryInfo, outcome: Outcome) -> Result<Claim, PublishError> {
        self.write(job, outcome, 0).await
    }

    /// Replaces a claimed outcome that can never be published. Returns the outcome that counts.
    ///
    /// # Errors
    /// [`PublishError`] if the stream does not accept it.
    pub async fn replace(&self, job: &DeliveryInfo, claim: &Claim, outcome: Outcome) -> Result<Claim, PublishError> {
        self.write(job, outcome, claim.sequence).await
    }

    /// Writes an outcome. A failure that is too large is written without the bytes of its job.
    async fn write(&self, job: &DeliveryInfo, outcome: Outcome, after: u64) -> Result<Claim, PublishError> {
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

    async fn write_whole(&self, job: &DeliveryInfo, outcome: Outcome, after: u64) -> Result<Claim, PublishError> {
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
                // Another worker was first; or this one was, and the acknowledgement was lost.
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => match self.read(&subject).await {
                    Ok(Some(claim)) if claim.sequence != after => return Ok(claim),
                    // Refused because another write is still in progress, or because the message has expired.
                    Ok(_) => error.into(),
                    Err(error) => error,
                },
                Err(error) => error.into(),
            };
            self.states.record_error(&self.jetstream, &self.stream, error.as_ref()).await;
            if !patience.pause().await {
                return Err(self.unavailable(subject, error));
            }
        }
    }

    /// Replaces the outcome of a settled job by a short record, which is kept for as long as `keep`. Does nothing if
    /// the outcome is no longer the last one of its job.
    pub(crate) async fn compact(
        &self,
        job: &DeliveryInfo,
        after: u64,
        settled: Settled,
        keep: Duration,
    ) -> Result<(), CompactError> {
        let subject = outcome_subject(job.sequence, job.published_nanos);
        let record = Some(outcome::Record::Settled(settled));
        let payload = Outcome { record, ..Outcome::default() }.encode_to_vec();
        // A TTL counts whole seconds. The expected sequence identifies the stream without `expected_stream`, which
        // saves bytes.
        let message = PublishMessage::build()
            .payload(payload.into())
            .ttl(keep + Duration::from_secs(1))
            .expected_last_subject_sequence(after);
        match self.publish(&subject, message).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(()),
            Err(error) if is_ttl_disabled(&error) => Err(CompactError::Disabled),
            Err(error) => Err(CompactError::Retry(error.into())),
        }
    }

    async fn publish(
        &self,
        subject: &str,
        message: PublishMessage,
    ) -> Result<u64, async_nats::jetstream::context::PublishError> {
        let started = Instant::now();
        let published = async { self.jetstream.send_publish(subject.to_owned(), message).await?.await };
        let published = published.await.map(|ack| ack.sequence);
        if let Some(instruments) = &self.instruments {
            let result = published.as_ref().map(drop).map_err(publish_error);
            instruments.message_published(Destination::Outcomes, result, started.elapsed());
        }
        published
    }

    async fn read(&self, subject: &str) -> Result<Option<Claim>, async_nats::Error> {
        let stream: Stream<()> = self.jetstream.get_stream_no_info(&self.stream).await?;
        // Not a direct get: a follower may answer it before it has what the leader has.
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
