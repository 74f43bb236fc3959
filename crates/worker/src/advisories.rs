//! The second net: jobs that the server itself will not hand out any more.
//!
//! The workers count deliveries, and end a job with its last error. But a consumer has a limit of its own, and what is
//! past that stays in the queue with nobody to take it. The server says so once, on a subject that a stream listens to;
//! one worker reads it, records the failure and removes the job by its sequence.
//!
//! The same is done for what the server has lost track of: killed in the middle of an acknowledgement, it can come back
//! with a message in the queue that its consumer takes for done. Such a message has its outcome, as a rule; it only has
//! to go.
//!
//! All of that holds for a work queue alone, in which what is done is no longer there: from another stream nothing is
//! removed, whatever is read about it.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RetentionPolicy, Stream};
use async_nats::jetstream::{Context, Message};
use futures::StreamExt;
use protocol::subjects::JOBS_WILDCARD;
use protocol::v1::{FailureReason, JobFailure, WorkerIdentity, outcome};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::delivery::DeliveryFacts;
use crate::ending::{failure_outcome, without_job};
use crate::events::{Events, JobEvent};
use crate::faults::Fault;
use crate::ledger::Ledger;
use crate::publish::PublishError;

/// How long one pull request waits. Shutdown waits for it.
const PULL_EXPIRES: Duration = Duration::from_secs(3);
/// Wait after an error: there is no hurry here.
const PAUSE: Duration = Duration::from_secs(5);
/// Delay before an advisory that could not be dealt with comes again.
const AGAIN: Duration = Duration::from_secs(10);

/// Looks at a queue that stands still before a message without an outcome is ended. One with an outcome goes at the
/// second look.
const LOOKS: u32 = 5;
/// Most of that in one look; the rest waits for the next.
const MOST_AT_ONCE: u64 = 1000;

/// Reads advisories and ends their jobs.
pub(crate) struct SecondNet {
    pub(crate) jetstream: Context,
    pub(crate) jobs_stream: String,
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

/// A queue of which the server hands nothing out.
#[derive(Debug, Clone, Copy, Default)]
struct Still {
    looks: u32,
    /// The last sequence at the first of them.
    last_sequence: u64,
}

impl SecondNet {
    /// Works until `stop`. Errors are waited out.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let (mut looked, mut still) = (Instant::now(), Still::default());
        let every = self.consumer.cached_info().config.ack_wait;
        while !stop.is_cancelled() {
            if looked.elapsed() > every {
                looked = Instant::now();
                match self.look_through(still).await {
                    Ok(seen) => still = seen,
                    Err(error) => tracing::debug!("the queue cannot be looked through: {error}"),
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
    async fn look_through(&self, before: Still) -> Result<Still, async_nats::Error> {
        let Some(stream) = self.queue().await? else { return Ok(Still::default()) };
        let consumer = stream.consumer_info(&self.consumer.cached_info().name).await?;
        let (state, config) = (&stream.cached_info().state, &consumer.config);
        // One of several consumers leaves the rest to the others.
        let takes_all = config.filter_subjects.is_empty()
            && (config.filter_subject.is_empty() || config.filter_subject == JOBS_WILDCARD);
        if !takes_all || state.messages == 0 || consumer.num_pending > 0 || consumer.num_ack_pending > 0 {
            return Ok(Still::default());
        }
        let last = before.last_sequence.min(state.first_sequence.saturating_add(MOST_AT_ONCE));
        for stream_seq in state.first_sequence..=last {
            let deliveries = u64::try_from(config.max_deliver).unwrap_or(0);
            let said = MaxDeliveries { stream: self.jobs_stream.clone(), stream_seq, deliveries };
            self.take_off(&said, None, before.looks >= LOOKS).await?;
        }
        let looks = before.looks.saturating_add(1);
        Ok(Still { looks, last_sequence: if looks == 1 { state.last_sequence } else { before.last_sequence } })
    }

    /// The stream of jobs as it is now, if it is a work queue: it may have been made anew as something else.
    async fn queue(&self) -> Result<Option<Stream>, async_nats::Error> {
        let stream = self.jetstream.get_stream(&self.jobs_stream).await?;
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
        self.take_off(&said, Some(said_at), true).await
    }

    /// Ends a job that is no newer than `said_at`: a newer one has its sequence in a stream that was made anew.
    ///
    /// It ends with its outcome if it has one, and with a failure only if it is sure that nobody else will end it.
    async fn take_off(
        &self,
        said: &MaxDeliveries,
        said_at: Option<OffsetDateTime>,
        is_sure: bool,
    ) -> Result<(), async_nats::Error> {
        let Some(stream) = self.queue().await? else {
            tracing::warn!("the stream of jobs is no work queue: what is read about its jobs is passed over");
            return Ok(());
        };
        let job = match stream.get_raw_message(said.stream_seq).await {
            Ok(job) => job,
            // Whoever had it last came to an end with it after all.
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if said_at.is_some_and(|said_at| job.time > said_at) {
            return Ok(());
        }
        let facts = DeliveryFacts {
            stream: said.stream.clone(),
            sequence: said.stream_seq,
            attempt: said.deliveries,
            published_nanos: u64::try_from(job.time.unix_timestamp_nanos()).unwrap_or(0),
        };
        if !is_sure && self.ledger.outcomes.find(&facts).await?.is_none() {
            return Ok(());
        }
        tracing::warn!(said.stream_seq, "a job that the server will not hand out any more is taken off the queue");
        self.end(&job, &facts).await?;
        stream.delete_message(said.stream_seq).await?;
        self.ledger.attempts.forget(&facts).await;
        Ok(())
    }

    /// Publishes the job's outcome: the one that was written down before, or a failure.
    async fn end(&self, job: &StreamMessage, facts: &DeliveryFacts) -> Result<(), PublishError> {
        let last_error = self.ledger.attempts.last_error(facts).await;
        let fault = Fault::DeliveriesExhausted { deliveries: facts.attempt, last_error };
        let reason = FailureReason::RetriesExhausted;
        let failure = failure_outcome(facts, &job.subject, &job.payload, &fault, reason, &self.worker);
        let claim = match self.ledger.outcomes.claim(facts, failure.clone()).await {
            Err(error @ PublishError::TooLarge { .. }) => match without_job(failure) {
                Some(lean) => self.ledger.outcomes.claim(facts, lean).await?,
                None => return Err(error),
            },
            claimed => claimed?,
        };
        let too_large = |error| {
            let (fault, reason) = (Fault::from(error), FailureReason::AnnotationTooLarge);
            failure_outcome(facts, &job.subject, &job.payload, &fault, reason, &self.worker)
        };
        let (claim, _) = self.ledger.see_through(facts, claim, too_large).await?;
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
