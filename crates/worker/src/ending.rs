//! How a delivery ends: its outcome is written down, published, and only then the job leaves the queue; or it goes back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use protocol::identity::{failure_id, sha256_hex};
use protocol::job::id_in;
use protocol::subjects::failed_subject_for;
use protocol::v1::{self, FailureReason, Outcome, outcome};

use crate::delivery::{Delivery, DeliveryFacts};
use crate::events::{JobEvent, Step};
use crate::faults::{Decision, Fault, FaultClass, decide, spread};
use crate::job::JobContext;
use crate::outcomes::Claim;
use crate::publish::{PublishError, Receipt};

/// How a delivery ended, to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its annotation is in the stream, from now or from an earlier delivery.
    Finished { duplicate: bool },
    /// Its failure is in the stream.
    Failed,
    /// It goes back to the queue.
    Retried,
    /// It goes back to the queue at once, for the worker ends.
    HandedBack,
    /// It goes back to the queue, for the engine has ended and this worker with it.
    EngineStopped,
}

impl JobContext {
    /// Writes an outcome down, or learns which one was written before, and sees that one through.
    pub(crate) async fn claim(&self, delivery: Delivery, outcome: Outcome) -> Ending {
        let is_failure = matches!(outcome.record, Some(outcome::Record::Failure(_)));
        let claimed = outcome.clone();
        match self.ledger.outcomes.claim(delivery.facts(), outcome).await {
            Ok(claim) => {
                self.events.step(if is_failure { Step::FailureClaimed } else { Step::AnnotationClaimed });
                self.conclude(delivery, claim).await
            }
            Err(error @ PublishError::TooLarge { .. }) if is_failure => match without_job(claimed) {
                Some(lean) => Box::pin(self.claim(delivery, lean)).await,
                None => self.hand_back(delivery, &error.into()).await,
            },
            Err(error) => self.failed(delivery, &error.into()).await,
        }
    }

    /// Publishes the outcome that counts, then takes the job off the queue.
    pub(crate) async fn conclude(&self, delivery: Delivery, claim: Claim) -> Ending {
        let too_large = |error| self.failure(&delivery, &Fault::from(error), FailureReason::AnnotationTooLarge);
        match self.ledger.see_through(delivery.facts(), claim, too_large).await {
            Ok((claim, receipt)) => match claim.outcome.record {
                Some(outcome::Record::Failure(failure)) => self.rejected(delivery, failure, &receipt).await,
                Some(outcome::Record::Annotation(annotation)) => self.finished(delivery, annotation, &receipt).await,
                // The publisher has refused it.
                None => Ending::Retried,
            },
            Err(error) => self.hand_back(delivery, &error.into()).await,
        }
    }

    /// What the table says of a fault.
    pub(crate) async fn failed(&self, delivery: Delivery, fault: &Fault) -> Ending {
        let tries = match self.tries(delivery.facts()).await {
            Ok(tries) => tries,
            Err(error) => return self.hand_back(delivery, &error.into()).await,
        };
        match decide(fault.class(), tries, self.settings.max_deliveries) {
            Decision::DeadLetter(reason) => self.give_up(delivery, fault, reason).await,
            Decision::Release(reason) => match self.releases.delay(delivery.facts()).await {
                Ok(Some(delay)) => self.release(delivery, fault, delay).await,
                Ok(None) => self.give_up(delivery, fault, reason).await,
                Err(error) => self.hand_back(delivery, &error.into()).await,
            },
            Decision::Retry(delay) => self.retry(delivery, fault, delay).await,
        }
    }

    /// How often the job was handed out to a worker that tried to do it, this time included. That is looked up only where
    /// it matters.
    pub(crate) async fn tries(&self, job: &DeliveryFacts) -> Result<u64, PublishError> {
        if job.attempt < self.settings.max_deliveries {
            return Ok(job.attempt);
        }
        Ok(job.attempt.saturating_sub(self.releases.times(job).await?).max(1))
    }

    async fn give_up(&self, delivery: Delivery, fault: &Fault, reason: FailureReason) -> Ending {
        let outcome = self.failure(&delivery, fault, reason);
        // Boxed, for a claim that is too large comes back to where this came from, with a fault of its own.
        Box::pin(self.claim(delivery, outcome)).await
    }

    /// Gives the job back whatever the table says: there is no stream to record a failure in.
    pub(crate) async fn hand_back(&self, delivery: Delivery, fault: &Fault) -> Ending {
        let delay = match decide(FaultClass::StreamUnavailable, delivery.facts().attempt, u64::MAX) {
            Decision::Retry(delay) => delay,
            Decision::Release(_) | Decision::DeadLetter(_) => self.settings.max_retry_delay,
        };
        self.retry(delivery, fault, delay).await
    }

    async fn finished(&self, delivery: Delivery, annotation: v1::ImageAnnotation, receipt: &Receipt) -> Ending {
        self.events.step(Step::AnnotationPublished);
        let duplicate = receipt.duplicate();
        tracing::info!(
            job_id = annotation.job_id,
            dataset = annotation.dataset,
            annotation_id = annotation.annotation_id,
            duplicate,
            "job is done"
        );
        if let Err(error) = delivery.delivered(receipt).await {
            // The annotation is safe; whoever gets the job next finds the outcome.
            tracing::warn!("{error}");
        }
        self.events.step(Step::Acknowledged);
        self.events.send(JobEvent::Finished { annotation: Arc::new(annotation), duplicate });
        Ending::Finished { duplicate }
    }

    async fn rejected(&self, delivery: Delivery, failure: v1::JobFailure, receipt: &Receipt) -> Ending {
        self.events.step(Step::FailurePublished);
        let (reason, subject) = (failure.reason(), failure.subject);
        let (job_id, message) = (failure.job_id, failure.message);
        tracing::warn!(job_id, subject, reason = reason.as_str_name(), "job is given up: {message}");
        if let Err(error) = delivery.reject(receipt, reason.as_str_name()).await {
            tracing::warn!("{error}");
        }
        self.events.step(Step::Terminated);
        self.events.send(JobEvent::Failed { job_id, subject, reason, message });
        Ending::Failed
    }

    fn failure(&self, delivery: &Delivery, fault: &Fault, reason: FailureReason) -> Outcome {
        failure_outcome(delivery.facts(), delivery.subject(), delivery.payload(), fault, reason, &self.worker)
    }

    async fn retry(&self, delivery: Delivery, fault: &Fault, delay: Duration) -> Ending {
        let (message, attempt) = (fault.message(), delivery.facts().attempt);
        let delay = spread(delay, self.settings.max_retry_delay, rand::random());
        tracing::warn!(subject = delivery.subject(), attempt, "job goes back to the queue for {delay:?}: {message}");
        self.back_to_the_queue(delivery, fault, message, delay).await
    }

    /// Leaves the job to workers with other settings.
    async fn release(&self, delivery: Delivery, fault: &Fault, delay: Duration) -> Ending {
        let (message, attempt) = (fault.message(), delivery.facts().attempt);
        let delay = delay.min(self.settings.max_retry_delay);
        tracing::warn!(
            subject = delivery.subject(),
            attempt,
            "job is released to other workers for {delay:?}, for this one's settings forbid it: {message}"
        );
        self.back_to_the_queue(delivery, fault, message, delay).await
    }

    async fn back_to_the_queue(&self, delivery: Delivery, fault: &Fault, message: String, delay: Duration) -> Ending {
        let subject = delivery.subject().to_owned();
        if let Err(error) = delivery.retry(delay).await {
            tracing::warn!("{error}");
        }
        self.events.step(Step::HandedBack);
        self.events.send(JobEvent::Retried { subject, delay, message });
        match fault.class() {
            FaultClass::EngineStopped => Ending::EngineStopped,
            FaultClass::ShuttingDown => Ending::HandedBack,
            _ => Ending::Retried,
        }
    }
}

/// A failure that leaves out the bytes of its job, as the publisher would; `None` if it does already.
pub(crate) fn without_job(outcome: Outcome) -> Option<Outcome> {
    match outcome.record {
        Some(outcome::Record::Failure(failure)) if !failure.job_omitted => {
            let lean = v1::JobFailure { job: Bytes::new(), job_omitted: true, ..failure };
            Some(Outcome { record: Some(outcome::Record::Failure(lean)), ..outcome })
        }
        _ => None,
    }
}

/// The failure record of one message of the jobs stream.
pub(crate) fn failure_outcome(
    facts: &DeliveryFacts,
    job_subject: &str,
    job: &Bytes,
    fault: &Fault,
    reason: FailureReason,
    worker: &v1::WorkerIdentity,
) -> Outcome {
    let job_sha256 = sha256_hex(job);
    let message_id = failure_id(&facts.stream, facts.sequence, facts.published_nanos, &job_sha256);
    let failure = v1::JobFailure {
        job: job.clone(),
        subject: job_subject.to_owned(),
        job_id: fault.job_id().or_else(|| id_in(job)).map(str::to_owned),
        reason: reason.into(),
        message: fault.message(),
        deliveries: facts.attempt,
        stream_sequence: facts.sequence,
        worker: Some(worker.clone()),
        failed_at: Some(SystemTime::now().into()),
        job_sha256,
        job_omitted: false,
    };
    let record = Some(outcome::Record::Failure(failure));
    Outcome { subject: failed_subject_for(job_subject), message_id, record }
}
