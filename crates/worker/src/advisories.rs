//! Ends or requeues jobs that the server no longer delivers.
//!
//! The workers count attempts and end a job with its last error. But the consumer may have a limit of its own
//! (`max_deliver`), and a job that reaches it stays in the queue without being delivered. The server announces this
//! once, in an advisory that a stream stores. One worker reads it, records the failure and removes the job by its
//! sequence.
//!
//! Orphaned messages in the streams of jobs and retries have no advisory: a server that was killed or out of storage
//! can have a message in the queue that its consumer takes for acknowledged. Such a message usually has an outcome or a
//! copy in the retries stream and only has to be removed. Otherwise the job is requeued: a new copy in the retries
//! stream replaces the message. The copy has the identity of the job, so the first outcome counts even if a worker
//! still has the orphaned delivery.
//!
//! In the jobs stream, requeueing races with the servers of a cluster, which remove such messages from a work queue
//! themselves every 30 to 40 s.
//!
//! Messages are removed only from streams without acknowledged messages: from a jobs stream that is a work queue, and from
//! the retries stream, from which workers delete the retries of jobs that have ended.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RetentionPolicy, Stream};
use async_nats::jetstream::{Context, Message};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use telemetry::attributes::JobOutcome;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use wire::Message as _;
use wire::subjects::{
    JOBS_FILTER, JOBS_WILDCARD, RETRIES_WILDCARD, URGENT_FILTER, URGENT_WILDCARD, dataset_token, is_cursor, is_urgent,
};
use wire::v1::{FailureReason, JobFailure, Retry, WorkerIdentity, outcome};

use crate::attempts::Attempts;
use crate::delivery_info::DeliveryInfo;
use crate::events::{Events, JobEvent};
use crate::failure::failure_outcome;
use crate::faults::Fault;
use crate::outcome_publisher::OutcomePublisher;
use crate::retries::Retries;
use broker::delete::delete_message;
use broker::publish::PublishError;

/// How long one pull request waits. Shutdown waits for its end.
const PULL_EXPIRES: Duration = Duration::from_secs(3);
/// Delay after an error.
const PAUSE: Duration = Duration::from_secs(5);
/// Delay of the nack of an advisory that could not be handled.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// Time between two scans of a queue, or `ack_wait` if that is shorter. The second scan that finds an orphan handles it.
const MAX_SCAN_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum orphans that one scan handles.
const MAX_PER_SCAN: usize = 1000;

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

/// A job, read from its message in a queue.
struct Job {
    info: DeliveryInfo,
    subject: String,
    payload: Bytes,
    headers: HeaderMap,
    /// The sequence of the message in the retries stream; 0 if the message is in the jobs stream.
    copy: u64,
}

/// What to do with a job that has neither an outcome nor a newer copy in the retries stream.
#[derive(Debug, Clone, Copy)]
enum Action {
    /// Publish it to the retries stream.
    Requeue,
    /// Record a failure: the server has delivered it as often as `max_deliver` allows.
    Fail { deliveries: u64 },
}

impl MaxDeliveriesReconciler {
    /// Works until `stop`. Errors are retried.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut scanned = Instant::now();
        let name = &self.consumer.cached_info().name;
        let queues =
            [(&self.jobs_stream, name), (&self.jobs_stream, &self.urgent_consumer), (&self.retries_stream, name)];
        let mut orphans = queues.map(|queue| (queue, 0));
        let interval = self.consumer.cached_info().config.ack_wait.min(MAX_SCAN_INTERVAL);
        while !stop.is_cancelled() {
            if scanned.elapsed() > interval {
                scanned = Instant::now();
                for ((stream, consumer), last) in &mut orphans {
                    match self.scan(stream, consumer, *last).await {
                        Ok(found) => *last = found,
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

    /// Looks for messages in the queue that the consumer neither has pending nor waits to be acknowledged, and removes or
    /// requeues those that the scan before found too, whose last sequence is `before`. Returns the last sequence of those
    /// found; 0 if there are none.
    async fn scan(&self, name: &str, consumer: &str, before: u64) -> Result<u64, async_nats::Error> {
        let Some(stream) = self.queue(name).await? else { return Ok(0) };
        let consumer = stream.consumer_info(consumer).await?;
        let (state, config) = (&stream.cached_info().state, &consumer.config);
        // A consumer with another filter leaves messages to other consumers.
        let takes_all = config.filter_subjects.is_empty()
            && ["", JOBS_FILTER, JOBS_WILDCARD, URGENT_FILTER, URGENT_WILDCARD, RETRIES_WILDCARD]
                .contains(&config.filter_subject.as_str());
        let is_idle = consumer.num_pending == 0 && consumer.num_ack_pending == 0;
        let done = if is_idle { state.last_sequence } else { consumer.ack_floor.stream_sequence };
        if !takes_all || state.messages == 0 || done < state.first_sequence {
            return Ok(0);
        }
        let urgent = Some(is_urgent(&config.filter_subject));
        // Cursors of `groundling enqueue` are in the jobs stream too, and stay there.
        let Some(first) = first_message(&stream, &config.filter_subject, state.first_sequence).await? else {
            return Ok(0);
        };
        if first.sequence > done {
            return Ok(0);
        }
        let mut next = Some(first);
        for _ in 0..MAX_PER_SCAN {
            let Some(message) = next.take().filter(|message| message.sequence <= before.min(done)) else { break };
            next = first_message(&stream, &config.filter_subject, message.sequence + 1).await?;
            // An error of one message does not hold up the others. The next scan finds it again.
            if let Err(error) = self.end_job(&stream, message, None, urgent, Action::Requeue).await {
                tracing::debug!(stream = name, "an orphan could not be handled: {error}");
            }
        }
        Ok(done)
    }

    /// The stream, unless acknowledged jobs can be in it: it may have been recreated with another retention.
    async fn queue(&self, name: &str) -> Result<Option<Stream>, async_nats::Error> {
        let stream = self.jetstream.get_stream(name).await?;
        let is_queue = stream.cached_info().config.retention == RetentionPolicy::WorkQueue;
        Ok((is_queue || name == self.retries_stream).then_some(stream))
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
        let action = Action::Fail { deliveries: advised.deliveries };
        match stream.get_raw_message(advised.stream_seq).await {
            Ok(message) => self.end_job(&stream, message, Some(advised_at), None, action).await,
            // A worker has ended it meanwhile.
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends or requeues the job of this message and removes the message, unless it is newer than `advised_at`: in a
    /// recreated stream another job has the same sequence. With `urgent`, only if the job is urgent or is not: it belongs
    /// to another consumer otherwise.
    ///
    /// The job ends with its outcome if it has one. If it has a newer copy in the retries stream, only the message is
    /// removed. Otherwise `action` decides.
    async fn end_job(
        &self,
        stream: &Stream,
        message: StreamMessage,
        advised_at: Option<OffsetDateTime>,
        urgent: Option<bool>,
        action: Action,
    ) -> Result<(), async_nats::Error> {
        let (stream, sequence) = (&stream.cached_info().config.name, message.sequence);
        if advised_at.is_some_and(|advised_at| message.time > advised_at)
            || urgent.is_some_and(|urgent| is_urgent(&message.subject) != urgent)
            || is_cursor(&message.subject)
        {
            return Ok(());
        }
        let is_copy = *stream == self.retries_stream;
        let job = if is_copy { Job::of_retry(message) } else { Some(Job::of(message, &self.jobs_stream)) };
        let Some(job) = job else {
            tracing::warn!(sequence, "removing a message from the retries stream that is not a copy of a job");
            delete_message(&self.jetstream, stream, sequence).await?;
            return Ok(());
        };
        if self.publisher.outcomes.find(&job.info).await?.is_some() {
            tracing::warn!(
                subject = job.subject,
                sequence,
                "the server no longer delivers this job: ending it with its recorded outcome and removing its message"
            );
            self.publish_outcome(&job, &self.not_delivered(&job).await).await?;
        } else if self.retries.last_copy(&job.subject, &job.info).await? > job.copy {
            tracing::warn!(
                subject = job.subject,
                sequence,
                "the server no longer delivers this message: removing it, because the job has a newer one in the retries stream"
            );
        } else {
            match action {
                Action::Requeue => self.requeue(&job, sequence).await?,
                Action::Fail { deliveries } => {
                    let last_error = self.attempts.last_error(&job.info).await;
                    self.publish_outcome(&job, &Fault::DeliveriesExhausted { deliveries, last_error }).await?;
                }
            }
        }
        delete_message(&self.jetstream, stream, sequence).await?;
        Ok(())
    }

    /// Publishes the job to the retries stream, to be delivered at once. A job that is too large for that stream becomes
    /// a failure.
    async fn requeue(&self, job: &Job, sequence: u64) -> Result<(), async_nats::Error> {
        let retry = Retry {
            job: job.payload.clone(),
            subject: job.subject.clone(),
            stream: job.info.stream.clone(),
            stream_sequence: job.info.sequence,
            published_nanos: job.info.published_nanos,
            // The copy's deliveries must not overwrite the records of earlier attempts. It is a redelivery in any case: a
            // worker may have had the job.
            deliveries: job.info.deliveries.max(self.attempts.last_delivery(&job.info).await?).max(1),
            delay_nanos: 0,
        };
        let mut headers = HeaderMap::new();
        telemetry::propagation::inject(&telemetry::propagation::extract(Some(&job.headers)), &mut headers);
        match self.retries.store(&retry, headers, job.copy).await {
            Ok(()) => {
                tracing::warn!(
                    subject = job.subject,
                    sequence,
                    "the server no longer delivers this job: published it to the retries stream and removing its message"
                );
                Ok(())
            }
            Err(PublishError::TooLarge { .. }) => Ok(self.publish_outcome(job, &self.not_delivered(job).await).await?),
            Err(error) => Err(error.into()),
        }
    }

    async fn not_delivered(&self, job: &Job) -> Fault {
        Fault::NotDelivered { last_error: self.attempts.last_error(&job.info).await }
    }

    /// Publishes the job's outcome: the one that was claimed before, or a failure.
    async fn publish_outcome(&self, job: &Job, fault: &Fault) -> Result<(), PublishError> {
        let Job { info, subject, payload, .. } = job;
        let failure = |fault: &Fault, reason| failure_outcome(info, subject, payload, fault, reason, &self.worker);
        let too_large = |error| failure(&Fault::from(error), FailureReason::AnnotationTooLarge);
        let failure = failure(fault, FailureReason::RetriesExhausted);
        let claim = self.publisher.outcomes.claim(info, failure).await?;
        let (claim, receipt) = self.publisher.publish(info, claim, None, too_large).await?;
        let outcome = match &claim.outcome.record {
            _ if receipt.duplicate() => JobOutcome::Duplicate,
            Some(outcome::Record::Failure(failure)) => JobOutcome::Failed(failure.reason().into()),
            Some(outcome::Record::Annotation(_)) => JobOutcome::Annotated,
            Some(outcome::Record::Settled(_)) | None => JobOutcome::Duplicate,
        };
        let dataset = dataset_token(subject).unwrap_or_default();
        self.publisher.instruments.undelivered_job_ended(outcome, dataset, info.age());
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
        self.attempts.forget(info).await;
        Ok(())
    }
}

/// The first message from this sequence on that matches the filter.
async fn first_message(
    stream: &Stream,
    filter: &str,
    sequence: u64,
) -> Result<Option<StreamMessage>, async_nats::Error> {
    let filter = if filter.is_empty() { ">" } else { filter };
    match stream.get_first_raw_message_by_subject(filter, sequence).await {
        Ok(message) => Ok(Some(message)),
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
        Self { info, subject: message.subject.to_string(), payload: message.payload, headers: message.headers, copy: 0 }
    }

    /// `None` if the message is not a copy of a job.
    fn of_retry(message: StreamMessage) -> Option<Self> {
        let retry = Retry::decode(message.payload).ok().filter(|retry| !retry.subject.is_empty())?;
        Some(Self {
            info: DeliveryInfo::of_retry(&retry, 0),
            subject: retry.subject,
            payload: retry.job,
            headers: message.headers,
            copy: message.sequence,
        })
    }
}
