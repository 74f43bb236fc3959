//! Jobs that the server itself will not deliver any more.
//!
//! The workers count deliveries, and end a job with its last error. But a consumer has a limit of its own, and what is
//! past that stays in the queue with nobody to take it. The server says so once, on a subject that a stream listens to;
//! one worker reads it, records the failure and removes the job by its sequence.
//!
//! The same is done, in the streams of jobs and of retries, for what the server has lost track of: killed in the middle
//! of an acknowledgement, it can come back with a message in the queue that its consumer takes for done. Such a message
//! has its outcome, or a copy in the stream of retries, as a rule; it only has to go.
//!
//! All of that holds for a work queue alone, in which what is done is no longer there: from another stream nothing is
//! removed, whatever is read about it.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RetentionPolicy, Stream};
use async_nats::jetstream::{Context, Message};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use wire::Message as _;
use wire::subjects::{JOBS_FILTER, JOBS_WILDCARD, RETRIES_WILDCARD, is_cursor};
use wire::v1::{FailureReason, JobFailure, Retry, WorkerIdentity, outcome};

use crate::delivery::DeliveryFacts;
use crate::events::{Events, JobEvent};
use crate::failure::failure_outcome;
use crate::faults::Fault;
use crate::ledger::Ledger;
use crate::retries::Retries;
use broker::publish::PublishError;

/// How long one pull request waits. Shutdown waits for it.
const PULL_EXPIRES: Duration = Duration::from_secs(3);
/// Wait after an error: there is no hurry here.
const PAUSE: Duration = Duration::from_secs(5);
/// Delay before an advisory that could not be dealt with comes again.
const AGAIN: Duration = Duration::from_secs(10);

/// Looks at a queue before a message without an outcome is ended. One with an outcome goes at the
/// second look.
const LOOKS: u32 = 5;
/// Most of that in one look; the rest waits for the next.
const MOST_AT_ONCE: u64 = 1000;

/// Reads advisories and ends their jobs.
pub(crate) struct MaxDeliveriesReconciler {
    pub(crate) jetstream: Context,
    pub(crate) jobs_stream: String,
    pub(crate) retries_stream: String,
    pub(crate) retries: Retries,
    pub(crate) consumer: PullConsumer,
    pub(crate) ledger: Ledger,
    pub(crate) worker: WorkerIdentity,
    pub(crate) events: Events,
}

/// What the server says, as far as it is of use here.
#[derive(Debug, Deserialize)]
struct MaxDeliveries {
    stream: String,
    stream_seq: u64,
    deliveries: u64,
}

/// Messages of a queue that its consumer takes for done.
#[derive(Debug, Clone, Copy, Default)]
struct Forgotten {
    looks: u32,
    /// The last sequence of them at the first look.
    last_sequence: u64,
}

/// A message of a queue as the job that it is.
struct Job {
    facts: DeliveryFacts,
    subject: String,
    payload: Bytes,
}

impl MaxDeliveriesReconciler {
    /// Works until `stop`. Errors are waited out.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut looked = Instant::now();
        let mut forgotten = [&self.jobs_stream, &self.retries_stream].map(|stream| (stream, Forgotten::default()));
        let every = self.consumer.cached_info().config.ack_wait;
        while !stop.is_cancelled() {
            if looked.elapsed() > every {
                looked = Instant::now();
                for (stream, seen) in &mut forgotten {
                    match self.look_through(stream, *seen).await {
                        Ok(now) => *seen = now,
                        Err(error) => tracing::debug!(%stream, "the queue cannot be looked through: {error}"),
                    }
                }
            }
            if let Err(error) = self.pull().await {
                tracing::debug!("no advisories can be taken: {error}");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }

    /// Looks whether messages are in the queue that the consumer neither waits to hand out nor to hear of, and ends
    /// those that were there at the looks before too.
    async fn look_through(&self, name: &str, before: Forgotten) -> Result<Forgotten, async_nats::Error> {
        let Some(stream) = self.queue(name).await? else { return Ok(Forgotten::default()) };
        let consumer = stream.consumer_info(&self.consumer.cached_info().name).await?;
        let (state, config) = (&stream.cached_info().state, &consumer.config);
        // One of several consumers leaves the rest to the others.
        let takes_all = config.filter_subjects.is_empty()
            && ["", JOBS_FILTER, JOBS_WILDCARD, RETRIES_WILDCARD].contains(&config.filter_subject.as_str());
        let is_idle = consumer.num_pending == 0 && consumer.num_ack_pending == 0;
        let done = if is_idle { state.last_sequence } else { consumer.ack_floor.stream_sequence };
        if !takes_all || state.messages == 0 || done < state.first_sequence {
            return Ok(Forgotten::default());
        }
        // Cursors of `groundling enqueue` are in the stream of jobs too, and stay there.
        let Some(first) = first_taken(&stream, &config.filter_subject).await?.filter(|first| *first <= done) else {
            return Ok(Forgotten::default());
        };
        let first_look = before.last_sequence < first;
        let before = if first_look { Forgotten { looks: 0, last_sequence: done } } else { before };
        let last = before.last_sequence.min(first.saturating_add(MOST_AT_ONCE));
        if !first_look {
            for sequence in first..=last {
                let fault = |last_error| Fault::NotDelivered { last_error };
                self.take_off(&stream, sequence, None, before.looks >= LOOKS, fault).await?;
            }
        }
        Ok(Forgotten { looks: before.looks.saturating_add(1), ..before })
    }

    /// The stream as it is now, if it is a work queue: it may have been made anew as something else.
    async fn queue(&self, name: &str) -> Result<Option<Stream>, async_nats::Error> {
        let stream = self.jetstream.get_stream(name).await?;
        let is_queue = stream.cached_info().config.retention == RetentionPolicy::WorkQueue;
        Ok(is_queue.then_some(stream))
    }

    async fn pull(&self) -> Result<(), async_nats::Error> {
        let mut advisories = self.consumer.batch().max_messages(1).expires(PULL_EXPIRES).messages().await?;
        while let Some(advisory) = advisories.next().await {
            let advisory = advisory?;
            match self.deal_with(&advisory).await {
                Ok(()) => advisory.double_ack().await?,
                Err(error) => {
                    tracing::warn!("a job that the server has given up could not be recorded yet: {error}");
                    advisory.ack_with(async_nats::jetstream::AckKind::Nak(Some(AGAIN))).await?;
                }
            }
        }
        Ok(())
    }

    async fn deal_with(&self, advisory: &Message) -> Result<(), async_nats::Error> {
        let Ok(said) = serde_json::from_slice::<MaxDeliveries>(&advisory.payload) else {
            tracing::warn!("an advisory cannot be read and is passed over");
            return Ok(());
        };
        if said.stream != self.jobs_stream {
            return Ok(());
        }
        let said_at = advisory.info().map_err(|error| error.to_string())?.published;
        let Some(stream) = self.queue(&self.jobs_stream).await? else {
            tracing::warn!("the stream of jobs is no work queue: what is read about its jobs is passed over");
            return Ok(());
        };
        let fault = |last_error| Fault::DeliveriesExhausted { deliveries: said.deliveries, last_error };
        self.take_off(&stream, said.stream_seq, Some(said_at), true, fault).await
    }

    /// Ends a job that is no newer than `said_at`: a newer one has its sequence in a stream that was made anew.
    ///
    /// It ends with its outcome if it has one. If it has a copy in the stream of retries, that takes its place. It ends
    /// with a failure only if it is sure that nobody else will end it.
    async fn take_off(
        &self,
        stream: &Stream,
        sequence: u64,
        said_at: Option<OffsetDateTime>,
        is_sure: bool,
        fault: impl FnOnce(Option<String>) -> Fault,
    ) -> Result<(), async_nats::Error> {
        let message = match stream.get_raw_message(sequence).await {
            Ok(message) => message,
            // Whoever had it last came to an end with it after all.
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if said_at.is_some_and(|said_at| message.time > said_at) || is_cursor(&message.subject) {
            return Ok(());
        }
        let is_copy = stream.cached_info().config.name == self.retries_stream;
        let job = if is_copy { Job::of_retry(message)? } else { Job::of(message, &self.jobs_stream) };
        let claim = self.ledger.outcomes.find(&job.facts).await?;
        let has_copy = !is_copy && claim.is_none() && self.retries.has_copy_of(&job.subject, &job.facts).await?;
        if claim.is_none() && !has_copy && !is_sure {
            return Ok(());
        }
        tracing::warn!(sequence, "a job that the server will not hand out any more is taken off the queue");
        if !has_copy {
            let fault = fault(self.ledger.attempts.last_error(&job.facts).await);
            self.end(&job, &fault).await?;
        }
        stream.delete_message(sequence).await?;
        if !has_copy {
            self.ledger.attempts.forget(&job.facts).await;
        }
        Ok(())
    }

    /// Publishes the job's outcome: the one that was written down before, or a failure.
    async fn end(&self, job: &Job, fault: &Fault) -> Result<(), PublishError> {
        let Job { facts, subject, payload } = job;
        let failure = |fault: &Fault, reason| failure_outcome(facts, subject, payload, fault, reason, &self.worker);
        let too_large = |error| failure(&Fault::from(error), FailureReason::AnnotationTooLarge);
        let failure = failure(fault, FailureReason::RetriesExhausted);
        let claim = self.ledger.outcomes.claim(facts, failure).await?;
        let (claim, _) = self.ledger.publish_claimed(facts, claim, too_large).await?;
        if let Some(outcome::Record::Failure(failure)) = claim.outcome.record {
            let reason = failure.reason();
            let JobFailure { job_id, subject, message, bucket, key, version_id, .. } = failure;
            tracing::warn!(
                job_id,
                subject,
                bucket,
                key,
                version_id,
                "a job that the server gave up is recorded: {message}"
            );
            self.events.send(JobEvent::Failed { job_id, subject, reason, message });
        }
        Ok(())
    }
}

/// The sequence of the first message that a consumer with this filter takes; `None` if there is none.
async fn first_taken(stream: &Stream, filter: &str) -> Result<Option<u64>, async_nats::Error> {
    let first = stream.cached_info().state.first_sequence;
    if filter.is_empty() {
        return Ok(Some(first));
    }
    match stream.get_first_raw_message_by_subject(filter, first).await {
        Ok(message) => Ok(Some(message.sequence)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Job {
    fn of(message: StreamMessage, jobs_stream: &str) -> Self {
        let facts = DeliveryFacts {
            stream: jobs_stream.to_owned(),
            sequence: message.sequence,
            // Nobody has counted.
            attempt: 0,
            published_nanos: u64::try_from(message.time.unix_timestamp_nanos()).unwrap_or(0),
        };
        Self { facts, subject: message.subject.to_string(), payload: message.payload }
    }

    fn of_retry(message: StreamMessage) -> Result<Self, async_nats::Error> {
        let retry = Retry::decode(message.payload)?;
        Ok(Self { facts: DeliveryFacts::of_retry(&retry, 0), subject: retry.subject, payload: retry.job })
    }
}
