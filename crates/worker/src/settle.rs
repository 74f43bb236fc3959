//! Settles deliveries: from an annotation or a fault to the acknowledgement.
//!
//! An annotation is claimed as the job's outcome, published, and only then the job is acknowledged. A fault either
//! makes the job a failure, which takes the same path, or requeues it: as a nack, or as a copy in the retries stream.

use std::sync::Arc;
use std::time::Duration;

use broker::publish::{PublishAck, PublishError};
use telemetry::attributes::{JobOutcome, Reason};
use tracing::Level;
use wire::job::{job_id_from_bytes, object_from_bytes};
use wire::v1::{self, FailureReason, Outcome, outcome};

use crate::attempts::Attempts;
use crate::compaction::CompactionQueue;
use crate::delivery::{Delivery, DeliveryError};
use crate::delivery_info::DeliveryInfo;
use crate::events::{Events, JobEvent, Step};
use crate::failure::failure_outcome;
use crate::faults::{Fault, Policy, STREAM_UNAVAILABLE_BACKOFF, jitter};
use crate::job_summary::JobCounts;
use crate::left_to_others::LeftToOthers;
use crate::outcome_publisher::OutcomePublisher;
use crate::outcomes::Claim;
use crate::queue::Queue;
use crate::retries::Retries;
use crate::suspension::SuspensionDetector;
use crate::telemetry_words::reason;

/// How a delivery ended, for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The job's annotation is in its stream, from this or an earlier delivery.
    Finished { duplicate: bool },
    /// The job's failure is in its stream.
    Failed,
    /// The job will be delivered again.
    Requeued,
    /// The job is delivered again at once because this worker is shutting down.
    Released,
    /// The job is delivered again because the engine has stopped, which ends this worker too.
    EngineStopped,
}

/// Settles deliveries.
pub(crate) struct Settler {
    pub(crate) publisher: OutcomePublisher,
    pub(crate) attempts: Attempts,
    pub(crate) suspension: SuspensionDetector,
    pub(crate) compaction: CompactionQueue,
    pub(crate) retries: Retries,
    pub(crate) left_to_others: LeftToOthers,
    pub(crate) worker: v1::WorkerIdentity,
    pub(crate) events: Events,
    pub(crate) counts: JobCounts,
    /// `worker.max_deliveries`.
    pub(crate) max_attempts: u64,
    pub(crate) max_retry_delay: Duration,
}

impl Settler {
    /// Settles a delivery by the result of its job.
    pub(crate) async fn settle(&self, delivery: Delivery, answer: Result<Outcome, Fault>) -> Settled {
        let outcome = match answer {
            Ok(annotation) => annotation,
            Err(fault) => match self.decide(&delivery, &fault).await {
                Next::Fail(reason) => self.failure(&delivery, &fault, reason),
                Next::Requeue(how) => return self.requeue(delivery, &fault, how).await,
            },
        };
        match self.claim(&delivery, outcome).await {
            Ok(claim) => {
                self.events.step(match claim.outcome.record {
                    Some(outcome::Record::Failure(_)) => Step::FailureClaimed,
                    _ => Step::AnnotationClaimed,
                });
                if self.suspension.may_be_late(delivery.received()) {
                    return self.release(delivery, &PublishError::LeaseExpired.into()).await;
                }
                self.publish_claimed(delivery, claim).await
            }
            Err(error) => self.release(delivery, &error.into()).await,
        }
    }

    /// Claims an outcome. An annotation that is too large for the outcomes stream is replaced by a failure.
    async fn claim(&self, delivery: &Delivery, outcome: Outcome) -> Result<Claim, PublishError> {
        let is_annotation = matches!(outcome.record, Some(outcome::Record::Annotation(_)));
        match self.publisher.outcomes.claim(delivery.info(), outcome).await {
            Err(error @ PublishError::TooLarge { .. }) if is_annotation => {
                let failure = self.failure(delivery, &error.into(), FailureReason::AnnotationTooLarge);
                self.publisher.outcomes.claim(delivery.info(), failure).await
            }
            claimed => claimed,
        }
    }

    /// Publishes the outcome that counts and then acknowledges the job.
    pub(crate) async fn publish_claimed(&self, delivery: Delivery, claim: Claim) -> Settled {
        let too_large = |error| self.failure(&delivery, &Fault::from(error), FailureReason::AnnotationTooLarge);
        let telemetry = Some(&delivery.telemetry);
        let (claim, receipt) = match self.publisher.publish(delivery.info(), claim, telemetry, too_large).await {
            Ok(published) => published,
            Err(error) => return self.release(delivery, &error.into()).await,
        };
        let sequence = claim.sequence();
        match claim.outcome.record {
            Some(outcome::Record::Failure(failure)) => self.failed(delivery, failure, &receipt, sequence).await,
            Some(outcome::Record::Annotation(annotation)) => {
                self.finished(delivery, annotation, &receipt, sequence).await
            }
            Some(outcome::Record::Settled(settled)) => self.settled_before(delivery, settled, &receipt).await,
            // The publisher does not accept such an outcome.
            None => Settled::Requeued,
        }
    }

    async fn finished(
        &self,
        mut delivery: Delivery,
        annotation: v1::ImageAnnotation,
        receipt: &PublishAck,
        outcome: u64,
    ) -> Settled {
        self.events.step(Step::AnnotationPublished);
        let duplicate = receipt.duplicate();
        let object = annotation.picture.as_ref().and_then(|picture| picture.object.as_ref());
        self.counts.annotated();
        tracing::debug!(
            job_id = annotation.job_id,
            dataset = annotation.dataset,
            bucket = object.map(|object| object.bucket.as_str()),
            key = object.map(|object| object.key.as_str()),
            version_id = object.and_then(|object| object.version_id.as_deref()),
            annotation_id = annotation.annotation_id,
            duplicate,
            "job is done"
        );
        let job = SettledJob::of(&delivery);
        delivery.telemetry.set_outcome(if duplicate { JobOutcome::Duplicate } else { JobOutcome::Annotated });
        match self.acknowledge(delivery, receipt, None).await {
            Ok(()) => self.compaction.push(&job.subject, &job.info, outcome, receipt.sequence(), false),
            // The annotation is stored; the next delivery finds the outcome.
            Err(error) => tracing::warn!("{error}"),
        }
        self.events.step(Step::Acknowledged);
        self.remove_records(job).await;
        self.events.send(JobEvent::Finished { annotation: Arc::new(annotation), duplicate });
        Settled::Finished { duplicate }
    }

    async fn failed(
        &self,
        mut delivery: Delivery,
        failure: v1::JobFailure,
        receipt: &PublishAck,
        outcome: u64,
    ) -> Settled {
        self.events.step(Step::FailurePublished);
        let reason = failure.reason();
        let v1::JobFailure { job_id, subject, message, bucket, key, version_id, .. } = failure;
        self.counts.failed(reason);
        let (name, text) = (reason.as_str_name(), format!("job failed permanently: {message}"));
        if self.counts.may_warn() {
            tracing::warn!(job_id, subject, bucket, key, version_id, reason = name, "{text}");
        } else {
            tracing::debug!(job_id, subject, bucket, key, version_id, reason = name, "{text}");
        }
        let job = SettledJob::of(&delivery);
        let is_duplicate = receipt.duplicate();
        delivery.telemetry.set_outcome(if is_duplicate {
            JobOutcome::Duplicate
        } else {
            JobOutcome::Failed(reason.into())
        });
        match self.acknowledge(delivery, receipt, Some(reason)).await {
            Ok(()) => self.compaction.push(&job.subject, &job.info, outcome, receipt.sequence(), true),
            Err(error) => tracing::warn!("{error}"),
        }
        self.events.step(Step::Terminated);
        self.remove_records(job).await;
        self.events.send(JobEvent::Failed { job_id, subject, reason, message });
        Settled::Failed
    }

    /// Another worker has settled the job and the server has confirmed it.
    async fn settled_before(&self, mut delivery: Delivery, settled: v1::Settled, receipt: &PublishAck) -> Settled {
        tracing::debug!(subject = delivery.subject(), "job was already finished by another worker");
        let job = SettledJob::of(&delivery);
        delivery.telemetry.set_outcome(JobOutcome::Duplicate);
        if let Err(error) = self.acknowledge(delivery, receipt, None).await {
            tracing::warn!("{error}");
        }
        self.remove_records(job).await;
        if settled.failed { Settled::Failed } else { Settled::Finished { duplicate: true } }
    }

    /// Acknowledges a job whose outcome is in its stream, or terminates it if that is a failure. A copy in the retries stream
    /// is deleted first. If that fails, the delivery is nacked, and the next one finds the outcome.
    async fn acknowledge(
        &self,
        delivery: Delivery,
        receipt: &PublishAck,
        failure: Option<FailureReason>,
    ) -> Result<(), AcknowledgeError> {
        if delivery.queue() == Queue::Retries {
            if let Err(error) = self.retries.delete_copy(delivery.subject(), delivery.info()).await {
                let delay = self.jitter(STREAM_UNAVAILABLE_BACKOFF.delay(delivery.info().deliveries));
                delivery.nack(delay).await?;
                return Err(AcknowledgeError::CopyNotDeleted(error));
            }
            self.events.step(Step::CopyDeleted);
        }
        match failure {
            None => delivery.ack(receipt).await?,
            Some(reason) => delivery.term(receipt, reason.as_str_name()).await?,
        }
        Ok(())
    }

    /// Deletes the records of a settled job. A job that was delivered once has none.
    async fn remove_records(&self, SettledJob { queue, subject, info }: SettledJob) {
        if info.deliveries > 1 {
            self.attempts.forget(&info).await;
            if queue == Queue::Jobs
                && let Err(error) = self.retries.delete_copy(&subject, &info).await
            {
                // If it is delivered, it finds the job's outcome.
                tracing::debug!(%error, "the copy of a job that has ended could not be deleted");
            }
        }
    }

    fn failure(&self, delivery: &Delivery, fault: &Fault, reason: FailureReason) -> Outcome {
        failure_outcome(delivery.info(), delivery.subject(), delivery.payload(), fault, reason, &self.worker)
    }

    /// Whether a fault makes the job a failure, or how the job is requeued. Records attempts that count.
    async fn decide(&self, delivery: &Delivery, fault: &Fault) -> Next {
        let (info, attempts) = (delivery.info(), delivery.started.earlier + 1);
        let how = match fault.policy() {
            Policy::Fail(reason) => return Next::Fail(reason),
            Policy::Retry(_) if attempts >= self.max_attempts => return Next::Fail(FailureReason::RetriesExhausted),
            Policy::Retry(backoff) => {
                self.attempts.fail(info, &fault.message()).await;
                return Next::Requeue(Requeue::retry(self.jitter(backoff.delay(attempts))));
            }
            Policy::Park(backoff) => Requeue::park(self.jitter(backoff.delay(info.deliveries))),
            Policy::Release(backoff) => Requeue::release(self.jitter(backoff.delay(info.deliveries))),
            Policy::LeaveToOthers(reason) => match self.left_to_others.delay(info).await {
                Ok(Some(delay)) => Requeue::leave_to_others(delay.min(self.max_retry_delay)),
                Ok(None) => return Next::Fail(reason),
                Err(error) => {
                    tracing::debug!(%error, "the time of the first refusal could not be read or recorded");
                    Requeue::release(self.jitter(STREAM_UNAVAILABLE_BACKOFF.delay(info.deliveries)))
                }
            },
        };
        self.attempts.release(delivery.started).await;
        Next::Requeue(how)
    }

    /// Releases a job whose outcome cannot be looked up, claimed or published now.
    pub(crate) async fn release(&self, delivery: Delivery, fault: &Fault) -> Settled {
        self.attempts.release(delivery.started).await;
        let delay = self.jitter(STREAM_UNAVAILABLE_BACKOFF.delay(delivery.info().deliveries));
        self.requeue(delivery, fault, Requeue::release(delay)).await
    }

    async fn requeue(&self, mut delivery: Delivery, fault: &Fault, how: Requeue) -> Settled {
        let Requeue { delay, as_retry, what, level, outcome } = how;
        delivery.telemetry.set_outcome(outcome(reason(fault)));
        let (subject, message) = (delivery.subject().to_owned(), fault.message());
        self.counts.requeued();
        let is_warning = level == Level::WARN && self.counts.may_warn();
        log(&delivery, is_warning, delay, &format!("job {what}: {message}"));
        let moved = match delivery.queue() {
            Queue::Jobs if as_retry => match self.retries.publish(&delivery, delay).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(
                        subject,
                        "a job could not be moved to the retries stream and waits in the jobs stream: {error}"
                    );
                    false
                }
            },
            Queue::Jobs | Queue::Retries => false,
        };
        let settled = if moved {
            self.events.step(Step::RetryPublished);
            delivery.ack_moved().await
        } else {
            delivery.nack(delay).await
        };
        if let Err(error) = settled {
            tracing::warn!("{error}");
        }
        self.events.step(Step::Requeued);
        self.events.send(JobEvent::Retried { subject, delay, message });
        if fault.is_engine_stopped() {
            Settled::EngineStopped
        } else if matches!(fault, Fault::ShuttingDown) {
            Settled::Released
        } else {
            Settled::Requeued
        }
    }

    fn jitter(&self, delay: Duration) -> Duration {
        jitter(delay, self.max_retry_delay, rand::random())
    }
}

/// Why a job whose outcome is in its stream was not removed from its queue.
#[derive(Debug, thiserror::Error)]
enum AcknowledgeError {
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    #[error(
        "the copy of a job in the retries stream could not be deleted and will be delivered again; its result is not lost: {0}"
    )]
    CopyNotDeleted(async_nats::Error),
}

/// What follows from a fault.
enum Next {
    Fail(FailureReason),
    Requeue(Requeue),
}

/// How a job is requeued.
struct Requeue {
    delay: Duration,
    /// Whether it moves to the retries stream, where it does not delay new jobs.
    as_retry: bool,
    /// The predicate of the log line.
    what: &'static str,
    level: Level,
    outcome: fn(Reason) -> JobOutcome,
}

impl Requeue {
    fn retry(delay: Duration) -> Self {
        Self { delay, as_retry: true, what: "will be retried", level: Level::WARN, outcome: JobOutcome::Retried }
    }

    /// At debug level, because the store is logged once for all of its jobs.
    fn park(delay: Duration) -> Self {
        Self {
            delay,
            as_retry: true,
            what: "waits in the retries stream for its store",
            level: Level::DEBUG,
            outcome: JobOutcome::Parked,
        }
    }

    fn release(delay: Duration) -> Self {
        let what = "will be delivered again, without counting an attempt";
        Self { delay, as_retry: false, what, level: Level::WARN, outcome: JobOutcome::Released }
    }

    fn leave_to_others(delay: Duration) -> Self {
        let what = "is left to other workers, because this worker's settings forbid it";
        Self { delay, as_retry: true, what, level: Level::WARN, outcome: JobOutcome::LeftToOthers }
    }
}

/// The identity of a job whose delivery has been settled.
struct SettledJob {
    queue: Queue,
    subject: String,
    info: DeliveryInfo,
}

impl SettledJob {
    fn of(delivery: &Delivery) -> Self {
        let (subject, info) = (delivery.subject().to_owned(), delivery.info().clone());
        Self { queue: delivery.queue(), subject, info }
    }
}

/// Logs that a job is requeued, and why.
fn log(delivery: &Delivery, is_warning: bool, delay: Duration, message: &str) {
    let (job_id, object) = (job_id_from_bytes(delivery.payload()), object_from_bytes(delivery.payload()));
    let object = object.as_ref();
    let (subject, deliveries) = (delivery.subject(), delivery.info().deliveries);
    let (bucket, key) = (object.map(|object| object.bucket.as_str()), object.map(|object| object.key.as_str()));
    let version_id = object.and_then(|object| object.version_id.as_deref());
    if is_warning {
        tracing::warn!(job_id, subject, bucket, key, version_id, deliveries, ?delay, "{message}");
    } else {
        tracing::debug!(job_id, subject, bucket, key, version_id, deliveries, ?delay, "{message}");
    }
}
