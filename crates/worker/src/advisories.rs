//! Ends jobs that the server no longer delivers.
//!
//! The workers count attempts and end a job with its last error. But the consumer may have a limit of its own
//! (`max_deliver`), and a job that reaches it stays in the queue without being delivered. The server announces this
//! once, in an advisory that a stream stores. One worker reads it, records the failure and removes the job by its
//! sequence.
//!
//! The same is done for orphaned messages in the streams of jobs and retries: a server that was killed during an
//! acknowledgement can restart with a message in the queue that its consumer takes for acknowledged. Such a message
//! usually has an outcome or a copy in the retries stream and only has to be removed.
//!
//! Messages are removed only from work queues, which contain no acknowledged messages.

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
use wire::subjects::{
    JOBS_FILTER, JOBS_WILDCARD, RETRIES_WILDCARD, URGENT_FILTER, URGENT_WILDCARD, is_cursor, is_urgent,
};
use wire::v1::{FailureReason, JobFailure, Retry, WorkerIdentity, outcome};

use crate::attempts::Attempts;
use crate::delivery_info::DeliveryInfo;
use crate::events::{Events, JobEvent};
use crate::failure::failure_outcome;
use crate::faults::Fault;
use crate::outcome_publisher::OutcomePublisher;
use crate::retries::Retries;
use broker::publish::PublishError;

/// How long one pull request waits. Shutdown waits for its end.
const PULL_EXPIRES: Duration = Duration::from_secs(3);
/// Delay after an error.
const PAUSE: Duration = Duration::from_secs(5);
/// Delay of the nack of an advisory that could not be handled.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// Scans of a queue before an orphan without an outcome becomes a failure. One with an outcome is removed in the second
/// scan.
const SCANS: u32 = 5;
/// Maximum orphans that one scan handles.
const MAX_PER_SCAN: u64 = 1000;

/// Handles advisories and orphans.
pub(crate) struct MaxDeliveriesReconciler {
    pub(crate) jetstream: Context,
    pub(crate) jobs_stream: String,
    pub(crate) retries_stream: String,
    /// The name of the consumer of urgent jobs.
    pub(crate) urgent_consumer: String,
    pub(crate) retries: Retries,
    pub(crate) consumer: PullConsumer,
    pub(crate) publisher: OutcomePublisher,
    pub(crate) attempts: Attempts,
    pub(crate) worker: WorkerIdentity,
    pub(crate) events: Events,
}

/// The fields of an advisory that are used.
#[derive(Debug, Deserialize)]
struct MaxDeliveries {
    stream: String,
    stream_seq: u64,
    deliveries: u64,
}

/// Messages of a queue that its consumer takes for acknowledged.
#[derive(Debug, Clone, Copy, Default)]
struct Orphans {
    scans: u32,
    /// The last sequence of them at the first scan.
    last_sequence: u64,
}

/// A job, read from its message in a queue.
struct Job {
    info: DeliveryInfo,
    subject: String,
    payload: Bytes,
}

impl MaxDeliveriesReconciler {
    /// Works until `stop`. Errors are retried.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut scanned = Instant::now();
        let name = &self.consumer.cached_info().name;
        let queues =
            [(&self.jobs_stream, name), (&self.jobs_stream, &self.urgent_consumer), (&self.retries_stream, name)];
        let mut orphans = queues.map(|queue| (queue, Orphans::default()));
        let interval = self.consumer.cached_info().config.ack_wait;
        while !stop.is_cancelled() {
            if scanned.elapsed() > interval {
                scanned = Instant::now();
                for ((stream, consumer), seen) in &mut orphans {
                    match self.scan(stream, consumer, *seen).await {
                        Ok(now) => *seen = now,
                        Err(error) => tracing::debug!(%stream, "the queue could not be scanned for orphans: {error}"),
                    }
                }
            }
            if let Err(error) = self.pull().await {
                tracing::debug!("advisories could not be read: {error}");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }

    /// Looks for messages in the queue that the consumer neither has pending nor waits to be acknowledged, and ends
    /// those that were already found by earlier scans.
    async fn scan(&self, name: &str, consumer: &str, before: Orphans) -> Result<Orphans, async_nats::Error> {
        let Some(stream) = self.queue(name).await? else { return Ok(Orphans::default()) };
        let consumer = stream.consumer_info(consumer).await?;
        let (state, config) = (&stream.cached_info().state, &consumer.config);
        // A consumer with another filter leaves messages to other consumers.
        let takes_all = config.filter_subjects.is_empty()
            && ["", JOBS_FILTER, JOBS_WILDCARD, URGENT_FILTER, URGENT_WILDCARD, RETRIES_WILDCARD]
                .contains(&config.filter_subject.as_str());
        let is_idle = consumer.num_pending == 0 && consumer.num_ack_pending == 0;
        let done = if is_idle { state.last_sequence } else { consumer.ack_floor.stream_sequence };
        if !takes_all || state.messages == 0 || done < state.first_sequence {
            return Ok(Orphans::default());
        }
        let urgent = Some(is_urgent(&config.filter_subject));
        // Cursors of `groundling enqueue` are in the jobs stream too, and stay there.
        let Some(first) = first_sequence(&stream, &config.filter_subject).await?.filter(|first| *first <= done) else {
            return Ok(Orphans::default());
        };
        let first_scan = before.last_sequence < first;
        let before = if first_scan { Orphans { scans: 0, last_sequence: done } } else { before };
        let last = before.last_sequence.min(first.saturating_add(MAX_PER_SCAN));
        if !first_scan {
            for sequence in first..=last {
                let fault = |last_error| Fault::NotDelivered { last_error };
                self.end_job(&stream, sequence, None, urgent, before.scans >= SCANS, fault).await?;
            }
        }
        Ok(Orphans { scans: before.scans.saturating_add(1), ..before })
    }

    /// The stream, if it is a work queue: it may have been recreated with another retention.
    async fn queue(&self, name: &str) -> Result<Option<Stream>, async_nats::Error> {
        let stream = self.jetstream.get_stream(name).await?;
        let is_queue = stream.cached_info().config.retention == RetentionPolicy::WorkQueue;
        Ok(is_queue.then_some(stream))
    }

    async fn pull(&self) -> Result<(), async_nats::Error> {
        let mut advisories = self.consumer.batch().max_messages(1).expires(PULL_EXPIRES).messages().await?;
        while let Some(advisory) = advisories.next().await {
            let advisory = advisory?;
            match self.handle(&advisory).await {
                Ok(()) => advisory.double_ack().await?,
                Err(error) => {
                    tracing::warn!(
                        "the failure of a job that reached the consumer's max_deliver could not be recorded, trying again: {error}"
                    );
                    advisory.ack_with(async_nats::jetstream::AckKind::Nak(Some(RETRY_DELAY))).await?;
                }
            }
        }
        Ok(())
    }

    async fn handle(&self, advisory: &Message) -> Result<(), async_nats::Error> {
        let Ok(advised) = serde_json::from_slice::<MaxDeliveries>(&advisory.payload) else {
            tracing::warn!("ignored an advisory that cannot be decoded");
            return Ok(());
        };
        if advised.stream != self.jobs_stream {
            return Ok(());
        }
        let advised_at = advisory.info().map_err(|error| error.to_string())?.published;
        let Some(stream) = self.queue(&self.jobs_stream).await? else {
            tracing::warn!(
                "ignored an advisory, because the jobs stream {} is not a work queue, so its messages must not be removed: delete the stream and run `groundling setup`",
                self.jobs_stream
            );
            return Ok(());
        };
        let fault = |last_error| Fault::DeliveriesExhausted { deliveries: advised.deliveries, last_error };
        self.end_job(&stream, advised.stream_seq, Some(advised_at), None, true, fault).await
    }

    /// Ends the job with this sequence and removes its message, unless it is newer than `advised_at`: in a recreated
    /// stream another job has the same sequence. With `urgent`, only if the job is urgent or is not: it belongs to another
    /// consumer otherwise.
    ///
    /// The job ends with its outcome if it has one. If it has a copy in the retries stream, only the message is
    /// removed. Otherwise it ends with a failure, but only if `is_certain` that no worker will end it.
    async fn end_job(
        &self,
        stream: &Stream,
        sequence: u64,
        advised_at: Option<OffsetDateTime>,
        urgent: Option<bool>,
        is_certain: bool,
        fault: impl FnOnce(Option<String>) -> Fault,
    ) -> Result<(), async_nats::Error> {
        let message = match stream.get_raw_message(sequence).await {
            Ok(message) => message,
            // A worker has ended it meanwhile.
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if advised_at.is_some_and(|advised_at| message.time > advised_at)
            || urgent.is_some_and(|urgent| is_urgent(&message.subject) != urgent)
            || is_cursor(&message.subject)
        {
            return Ok(());
        }
        let is_copy = stream.cached_info().config.name == self.retries_stream;
        let job = if is_copy { Job::of_retry(message)? } else { Job::of(message, &self.jobs_stream) };
        let claim = self.publisher.outcomes.find(&job.info).await?;
        let has_copy = !is_copy && claim.is_none() && self.retries.has_copy_of(&job.subject, &job.info).await?;
        if claim.is_none() && !has_copy && !is_certain {
            return Ok(());
        }
        tracing::warn!(
            subject = job.subject,
            sequence,
            "the server no longer delivers this job: ending it with its recorded outcome or a failure, then removing its message"
        );
        if !has_copy {
            let fault = fault(self.attempts.last_error(&job.info).await);
            self.publish_outcome(&job, &fault).await?;
        }
        stream.delete_message(sequence).await?;
        if !has_copy {
            self.attempts.forget(&job.info).await;
        }
        Ok(())
    }

    /// Publishes the job's outcome: the one that was claimed before, or a failure.
    async fn publish_outcome(&self, job: &Job, fault: &Fault) -> Result<(), PublishError> {
        let Job { info, subject, payload } = job;
        let failure = |fault: &Fault, reason| failure_outcome(info, subject, payload, fault, reason, &self.worker);
        let too_large = |error| failure(&Fault::from(error), FailureReason::AnnotationTooLarge);
        let failure = failure(fault, FailureReason::RetriesExhausted);
        let claim = self.publisher.outcomes.claim(info, failure).await?;
        let (claim, _) = self.publisher.publish(info, claim, None, too_large).await?;
        if let Some(outcome::Record::Failure(failure)) = claim.outcome.record {
            let reason = failure.reason();
            let JobFailure { job_id, subject, message, bucket, key, version_id, .. } = failure;
            tracing::warn!(
                job_id,
                subject,
                bucket,
                key,
                version_id,
                "job failed permanently, because the server no longer delivers it: {message}"
            );
            self.events.send(JobEvent::Failed { job_id, subject, reason, message });
        }
        Ok(())
    }
}

/// The sequence of the first message that matches the filter.
async fn first_sequence(stream: &Stream, filter: &str) -> Result<Option<u64>, async_nats::Error> {
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
        let info = DeliveryInfo {
            stream: jobs_stream.to_owned(),
            sequence: message.sequence,
            // Not known.
            deliveries: 0,
            published_nanos: u64::try_from(message.time.unix_timestamp_nanos()).unwrap_or(0),
        };
        Self { info, subject: message.subject.to_string(), payload: message.payload }
    }

    fn of_retry(message: StreamMessage) -> Result<Self, async_nats::Error> {
        let retry = Retry::decode(message.payload)?;
        Ok(Self { info: DeliveryInfo::of_retry(&retry, 0), subject: retry.subject, payload: retry.job })
    }
}
