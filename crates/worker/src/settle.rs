//! From a job's answer, or from what went wrong, to its acknowledgement.
//!
//! An answer is claimed as the job's outcome, published, and only then the job is acknowledged. A fault makes the job a
//! failure, which goes the same way, or sends it back: to the stream that it came from, or to the stream of retries.

use std::sync::Arc;
use std::time::Duration;

use broker::publish::{PublishAck, PublishError};
use tracing::Level;
use wire::job::{job_id_from_bytes, object_from_bytes};
use wire::v1::{self, FailureReason, Outcome, outcome};

use crate::delivery::{Delivery, DeliveryFacts};
use crate::events::{Events, JobEvent, Step};
use crate::failure::failure_outcome;
use crate::faults::{Fault, Policy, STREAM_UNAVAILABLE_BACKOFF, jitter};
use crate::ledger::Ledger;
use crate::outcomes::Claim;
use crate::queue::Queue;
use crate::releases::Releases;
use crate::retries::Retries;

/// How a delivery ended, to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The job's annotation is in its stream, from now or from an earlier delivery.
    Finished { duplicate: bool },
    /// The job's failure is in its stream.
    Failed,
    /// The job is delivered again.
    Retried,
    /// The job is delivered again at once, because this worker is shutting down.
    Released,
    /// The job is delivered again, because the engine has stopped, and this worker stops too.
    EngineStopped,
}

/// Settles deliveries.
pub(crate) struct Settler {
    pub(crate) ledger: Ledger,
    pub(crate) retries: Retries,
    pub(crate) releases: Releases,
    pub(crate) worker: v1::WorkerIdentity,
    pub(crate) events: Events,
    /// `worker.max_deliveries`.
    pub(crate) max_attempts: u64,
    pub(crate) max_retry_delay: Duration,
}

impl Settler {
    /// Settles a delivery by what came of its job.
    pub(crate) async fn settle(&self, delivery: Delivery, answer: Result<Outcome, Fault>) -> Settled {
        let outcome = match answer {
            Ok(annotation) => annotation,
            Err(fault) => match self.failure_or_delay(&delivery, &fault).await {
                Next::Fail(reason) => self.failure(&delivery, &fault, reason),
                Next::SendBack(back) => return self.send_back(delivery, &fault, back).await,
            },
        };
        match self.claim(&delivery, outcome).await {
            Ok(claim) => {
                self.events.step(match claim.outcome.record {
                    Some(outcome::Record::Failure(_)) => Step::FailureClaimed,
                    _ => Step::AnnotationClaimed,
                });
                if self.ledger.standstill.may_be_late(delivery.received()) {
                    return self.release(delivery, &PublishError::LeaseExpired.into()).await;
                }
                self.publish_claimed(delivery, claim).await
            }
            Err(error) => self.release(delivery, &error.into()).await,
        }
    }

    /// Claims an outcome. An annotation that the stream of outcomes does not take for its size gives way to a failure.
    async fn claim(&self, delivery: &Delivery, outcome: Outcome) -> Result<Claim, PublishError> {
        let is_annotation = matches!(outcome.record, Some(outcome::Record::Annotation(_)));
        match self.ledger.outcomes.claim(delivery.facts(), outcome).await {
            Err(error @ PublishError::TooLarge { .. }) if is_annotation => {
                let failure = self.failure(delivery, &error.into(), FailureReason::AnnotationTooLarge);
                self.ledger.outcomes.claim(delivery.facts(), failure).await
            }
            claimed => claimed,
        }
    }

    /// Publishes the outcome that counts, then acknowledges the job.
    pub(crate) async fn publish_claimed(&self, delivery: Delivery, claim: Claim) -> Settled {
        let too_large = |error| self.failure(&delivery, &Fault::from(error), FailureReason::AnnotationTooLarge);
        let (claim, receipt) = match self.ledger.publish_claimed(delivery.facts(), claim, too_large).await {
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
            // The publisher refuses such an outcome.
            None => Settled::Retried,
        }
    }

    async fn finished(
        &self,
        delivery: Delivery,
        annotation: v1::ImageAnnotation,
        receipt: &PublishAck,
        outcome: u64,
    ) -> Settled {
        self.events.step(Step::AnnotationPublished);
        let duplicate = receipt.duplicate();
        let object = annotation.picture.as_ref().and_then(|picture| picture.object.as_ref());
        tracing::info!(
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
        match delivery.delivered(receipt).await {
            Ok(()) => self.ledger.roll_up.ended(&job.facts, outcome, receipt.sequence(), false),
            // The annotation is safe; the next delivery finds the outcome.
            Err(error) => tracing::warn!("{error}"),
        }
        self.events.step(Step::Acknowledged);
        self.remove_records(job).await;
        self.events.send(JobEvent::Finished { annotation: Arc::new(annotation), duplicate });
        Settled::Finished { duplicate }
    }

    async fn failed(&self, delivery: Delivery, failure: v1::JobFailure, receipt: &PublishAck, outcome: u64) -> Settled {
        self.events.step(Step::FailurePublished);
        let reason = failure.reason();
        let v1::JobFailure { job_id, subject, message, bucket, key, version_id, .. } = failure;
        tracing::warn!(
            job_id,
            subject,
            bucket,
            key,
            version_id,
            reason = reason.as_str_name(),
            "job failed permanently: {message}"
        );
        let job = SettledJob::of(&delivery);
        match delivery.reject(receipt, reason.as_str_name()).await {
            Ok(()) => self.ledger.roll_up.ended(&job.facts, outcome, receipt.sequence(), true),
            Err(error) => tracing::warn!("{error}"),
        }
        self.events.step(Step::Terminated);
        self.remove_records(job).await;
        self.events.send(JobEvent::Failed { job_id, subject, reason, message });
        Settled::Failed
    }

    /// Another worker has settled the job, and the server has confirmed it.
    async fn settled_before(&self, delivery: Delivery, settled: v1::Settled, receipt: &PublishAck) -> Settled {
        tracing::info!(subject = delivery.subject(), "job was finished by another worker");
        let job = SettledJob::of(&delivery);
        if let Err(error) = delivery.delivered(receipt).await {
            tracing::warn!("{error}");
        }
        self.remove_records(job).await;
        if settled.failed { Settled::Failed } else { Settled::Finished { duplicate: true } }
    }

    /// Removes what was recorded of a settled job. After a first delivery there is nothing.
    async fn remove_records(&self, SettledJob { queue, subject, facts }: SettledJob) {
        if facts.attempt > 1 {
            self.ledger.attempts.forget(&facts).await;
            if queue == Queue::Jobs {
                self.retries.forget(&subject, &facts).await;
            }
        }
    }

    fn failure(&self, delivery: &Delivery, fault: &Fault, reason: FailureReason) -> Outcome {
        failure_outcome(delivery.facts(), delivery.subject(), delivery.payload(), fault, reason, &self.worker)
    }

    /// Whether a fault makes the job a failure, or how it is sent back. Records what counts as an attempt.
    async fn failure_or_delay(&self, delivery: &Delivery, fault: &Fault) -> Next {
        let (facts, attempts) = (delivery.facts(), delivery.started.earlier + 1);
        let back = match fault.policy() {
            Policy::Fail(reason) => return Next::Fail(reason),
            Policy::Retry(_) if attempts >= self.max_attempts => return Next::Fail(FailureReason::RetriesExhausted),
            Policy::Retry(backoff) => {
                self.ledger.attempts.fail(facts, &fault.message()).await;
                return Next::SendBack(SendBack::retry(self.jitter(backoff.delay(attempts))));
            }
            Policy::Park(backoff) => SendBack::park(self.jitter(backoff.delay(facts.attempt))),
            Policy::Release(backoff) => SendBack::release(self.jitter(backoff.delay(facts.attempt))),
            Policy::LeaveToOthers(reason) => match self.releases.delay(facts).await {
                Ok(Some(delay)) => SendBack::leave_to_others(delay.min(self.max_retry_delay)),
                Ok(None) => return Next::Fail(reason),
                Err(error) => {
                    tracing::debug!(%error, "it is not known since when the job is left to other workers");
                    SendBack::release(self.jitter(STREAM_UNAVAILABLE_BACKOFF.delay(facts.attempt)))
                }
            },
        };
        self.ledger.attempts.release(delivery.started).await;
        Next::SendBack(back)
    }

    /// Gives a job back whose outcome cannot be claimed or published now, whatever the fault.
    pub(crate) async fn release(&self, delivery: Delivery, fault: &Fault) -> Settled {
        self.ledger.attempts.release(delivery.started).await;
        let delay = self.jitter(STREAM_UNAVAILABLE_BACKOFF.delay(delivery.facts().attempt));
        self.send_back(delivery, fault, SendBack::release(delay)).await
    }

    async fn send_back(&self, delivery: Delivery, fault: &Fault, back: SendBack) -> Settled {
        let SendBack { delay, apart, what, level } = back;
        let (subject, message) = (delivery.subject().to_owned(), fault.message());
        log(&delivery, level, &format!("job {what} {delay:?}: {message}"));
        let moved = match delivery.queue() {
            Queue::Jobs if apart => match self.retries.publish(&delivery, delay).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!("a job stays in the stream of jobs until it is tried again: {error}");
                    false
                }
            },
            Queue::Jobs | Queue::Retries => false,
        };
        let sent = if moved {
            self.events.step(Step::RetryPublished);
            delivery.moved().await
        } else {
            delivery.retry(delay).await
        };
        if let Err(error) = sent {
            tracing::warn!("{error}");
        }
        self.events.step(Step::SentBack);
        self.events.send(JobEvent::Retried { subject, delay, message });
        if fault.is_engine_stopped() {
            Settled::EngineStopped
        } else if matches!(fault, Fault::ShuttingDown) {
            Settled::Released
        } else {
            Settled::Retried
        }
    }

    fn jitter(&self, delay: Duration) -> Duration {
        jitter(delay, self.max_retry_delay, rand::random())
    }
}

/// What follows from a fault.
enum Next {
    Fail(FailureReason),
    SendBack(SendBack),
}

/// How a job is sent back.
struct SendBack {
    delay: Duration,
    /// To the stream of retries, where it does not hold back new jobs.
    apart: bool,
    /// For the log: the job does this for so long.
    what: &'static str,
    level: Level,
}

impl SendBack {
    fn retry(delay: Duration) -> Self {
        Self { delay, apart: true, what: "is tried again in", level: Level::WARN }
    }

    /// The store is logged once for all of its jobs.
    fn park(delay: Duration) -> Self {
        Self { delay, apart: true, what: "waits for", level: Level::DEBUG }
    }

    fn release(delay: Duration) -> Self {
        Self { delay, apart: false, what: "goes back to the queue for", level: Level::WARN }
    }

    fn leave_to_others(delay: Duration) -> Self {
        let what = "is left to other workers, because this one's settings forbid it, for";
        Self { delay, apart: true, what, level: Level::WARN }
    }
}

/// What is known of a job once its delivery is gone.
struct SettledJob {
    queue: Queue,
    subject: String,
    facts: DeliveryFacts,
}

impl SettledJob {
    fn of(delivery: &Delivery) -> Self {
        let (subject, facts) = (delivery.subject().to_owned(), delivery.facts().clone());
        Self { queue: delivery.queue(), subject, facts }
    }
}

/// Logs what becomes of a job that is delivered again.
fn log(delivery: &Delivery, level: Level, what: &str) {
    let (job_id, object) = (job_id_from_bytes(delivery.payload()), object_from_bytes(delivery.payload()));
    let object = object.as_ref();
    let (subject, attempt) = (delivery.subject(), delivery.facts().attempt);
    let (bucket, key) = (object.map(|object| object.bucket.as_str()), object.map(|object| object.key.as_str()));
    let version_id = object.and_then(|object| object.version_id.as_deref());
    if level == Level::WARN {
        tracing::warn!(job_id, subject, bucket, key, version_id, attempt, "{what}");
    } else {
        tracing::debug!(job_id, subject, bucket, key, version_id, attempt, "{what}");
    }
}
