//! How a delivery ends: its outcome is written down, published, and only then the job leaves the queue; or it goes back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use wire::identity::{failure_id, sha256_hex};
use wire::job::{id_in, object_in};
use wire::subjects::failed_subject_for;
use wire::v1::{self, FailureReason, Outcome, outcome};

use crate::delivery::{Delivery, DeliveryError, DeliveryFacts};
use crate::events::{JobEvent, Step};
use crate::faults::{Decision, Fault, FaultClass, Tries, decide, release_delay, spread};
use crate::job::JobContext;
use crate::outcomes::Claim;
use crate::queue::Queue;
use broker::publish::{PublishError, Receipt};

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
                if self.ledger.standstill.may_be_late(delivery.received()) {
                    return self.hand_back(delivery, &PublishError::Late.into()).await;
                }
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
            Ok((claim, receipt)) => {
                let sequence = claim.sequence();
                match claim.outcome.record {
                    Some(outcome::Record::Failure(failure)) => {
                        self.rejected(delivery, failure, &receipt, sequence).await
                    }
                    Some(outcome::Record::Annotation(annotation)) => {
                        self.finished(delivery, annotation, &receipt, sequence).await
                    }
                    Some(outcome::Record::Settled(settled)) => self.settled(delivery, settled, &receipt).await,
                    // The publisher has refused it.
                    None => Ending::Retried,
                }
            }
            Err(error) => self.hand_back(delivery, &error.into()).await,
        }
    }

    /// What the table says of a fault.
    pub(crate) async fn failed(&self, delivery: Delivery, fault: &Fault) -> Ending {
        let tries = Tries { attempts: delivery.started.earlier + 1, deliveries: delivery.facts().attempt };
        match decide(fault.class(), tries, self.settings.max_deliveries) {
            Decision::DeadLetter(reason) => self.give_up(delivery, fault, reason).await,
            Decision::LeaveToOthers(reason) => match self.releases.delay(delivery.facts()).await {
                Ok(Some(delay)) => self.leave_to_others(delivery, fault, delay).await,
                Ok(None) => self.give_up(delivery, fault, reason).await,
                Err(error) => self.hand_back(delivery, &error.into()).await,
            },
            Decision::Retry(delay) => {
                self.ledger.attempts.fail(delivery.facts(), &fault.message()).await;
                let delay = self.spread(delay);
                let told = format!("job is tried again in {delay:?}: {}", fault.message());
                log(&delivery, Told::Warning, &told);
                self.apart(delivery, fault, delay).await
            }
            Decision::Park(delay) => {
                self.ledger.attempts.release(delivery.started).await;
                let delay = self.spread(delay);
                // Whoever found out about the store has told of it, once for all of its jobs.
                log(&delivery, Told::Debug, &format!("job waits for {delay:?}: {}", fault.message()));
                self.apart(delivery, fault, delay).await
            }
            Decision::Release(delay) => {
                self.ledger.attempts.release(delivery.started).await;
                self.release(delivery, fault, delay).await
            }
        }
    }

    async fn give_up(&self, delivery: Delivery, fault: &Fault, reason: FailureReason) -> Ending {
        let outcome = self.failure(&delivery, fault, reason);
        // Boxed, for a claim that is too large comes back to where this came from, with a fault of its own.
        Box::pin(self.claim(delivery, outcome)).await
    }

    /// Gives the job back whatever the table says: there is no stream to record a failure in.
    pub(crate) async fn hand_back(&self, delivery: Delivery, fault: &Fault) -> Ending {
        let delay = release_delay(FaultClass::StreamUnavailable, delivery.facts().attempt);
        self.ledger.attempts.release(delivery.started).await;
        self.release(delivery, fault, delay.unwrap_or(self.settings.max_retry_delay)).await
    }

    /// Another worker has finished the job, and the server has confirmed it.
    async fn settled(&self, delivery: Delivery, settled: v1::Settled, receipt: &Receipt) -> Ending {
        tracing::info!(subject = delivery.subject(), "job was finished by another worker");
        let left = Left::of(&delivery);
        if let Err(error) = delivery.delivered(receipt).await {
            tracing::warn!("{error}");
        }
        self.forget(left).await;
        if settled.failed { Ending::Failed } else { Ending::Finished { duplicate: true } }
    }

    async fn finished(
        &self,
        delivery: Delivery,
        annotation: v1::ImageAnnotation,
        receipt: &Receipt,
        outcome: u64,
    ) -> Ending {
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
        let left = Left::of(&delivery);
        match delivery.delivered(receipt).await {
            Ok(()) => self.ledger.roll_up.ended(&left.facts, outcome, receipt.sequence(), false),
            // The annotation is safe; whoever gets the job next finds the outcome.
            Err(error) => tracing::warn!("{error}"),
        }
        self.events.step(Step::Acknowledged);
        self.forget(left).await;
        self.events.send(JobEvent::Finished { annotation: Arc::new(annotation), duplicate });
        Ending::Finished { duplicate }
    }

    async fn rejected(&self, delivery: Delivery, failure: v1::JobFailure, receipt: &Receipt, outcome: u64) -> Ending {
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
        let left = Left::of(&delivery);
        match delivery.reject(receipt, reason.as_str_name()).await {
            Ok(()) => self.ledger.roll_up.ended(&left.facts, outcome, receipt.sequence(), true),
            Err(error) => tracing::warn!("{error}"),
        }
        self.events.step(Step::Terminated);
        self.forget(left).await;
        self.events.send(JobEvent::Failed { job_id, subject, reason, message });
        Ending::Failed
    }

    /// Removes what a job that has ended left behind. After a first delivery there is nothing.
    async fn forget(&self, Left { queue, subject, facts }: Left) {
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

    /// Gives the job back to the stream that it came from.
    async fn release(&self, delivery: Delivery, fault: &Fault, delay: Duration) -> Ending {
        let delay = self.spread(delay);
        log(&delivery, Told::Warning, &format!("job goes back to the queue for {delay:?}: {}", fault.message()));
        let (subject, retried) = (delivery.subject().to_owned(), delivery.retry(delay).await);
        self.back(subject, retried, fault, delay)
    }

    /// Leaves the job to workers with other settings.
    async fn leave_to_others(&self, delivery: Delivery, fault: &Fault, delay: Duration) -> Ending {
        let delay = delay.min(self.settings.max_retry_delay);
        self.ledger.attempts.release(delivery.started).await;
        let told = format!(
            "job is released to other workers for {delay:?}, for this one's settings forbid it: {}",
            fault.message()
        );
        log(&delivery, Told::Warning, &told);
        self.apart(delivery, fault, delay).await
    }

    /// Lets the job wait in the stream of retries; in that of jobs only where the other does not take it.
    async fn apart(&self, delivery: Delivery, fault: &Fault, delay: Duration) -> Ending {
        let subject = delivery.subject().to_owned();
        let retried = match delivery.queue() {
            Queue::Retries => delivery.retry(delay).await,
            Queue::Jobs => match self.retries.publish(&delivery, delay).await {
                Ok(()) => {
                    self.events.step(Step::RetryPublished);
                    delivery.moved().await
                }
                Err(error) => {
                    tracing::warn!("a job stays in the stream of jobs until it is tried again: {error}");
                    delivery.retry(delay).await
                }
            },
        };
        self.back(subject, retried, fault, delay)
    }

    fn back(&self, subject: String, retried: Result<(), DeliveryError>, fault: &Fault, delay: Duration) -> Ending {
        if let Err(error) = retried {
            tracing::warn!("{error}");
        }
        self.events.step(Step::HandedBack);
        self.events.send(JobEvent::Retried { subject, delay, message: fault.message() });
        match fault.class() {
            FaultClass::EngineStopped => Ending::EngineStopped,
            FaultClass::ShuttingDown => Ending::HandedBack,
            _ => Ending::Retried,
        }
    }

    fn spread(&self, delay: Duration) -> Duration {
        spread(delay, self.settings.max_retry_delay, rand::random())
    }
}

/// What is known of a job that has ended.
struct Left {
    queue: Queue,
    subject: String,
    facts: DeliveryFacts,
}

impl Left {
    fn of(delivery: &Delivery) -> Self {
        let (subject, facts) = (delivery.subject().to_owned(), delivery.facts().clone());
        Self { queue: delivery.queue(), subject, facts }
    }
}

/// How loud a line of the log is.
enum Told {
    Warning,
    Debug,
}

/// Logs what becomes of a job that has not ended.
fn log(delivery: &Delivery, told: Told, what: &str) {
    let (job_id, object) = (id_in(delivery.payload()), object_in(delivery.payload()));
    let object = object.as_ref();
    let (subject, attempt) = (delivery.subject(), delivery.facts().attempt);
    let (bucket, key) = (object.map(|object| object.bucket.as_str()), object.map(|object| object.key.as_str()));
    let version_id = object.and_then(|object| object.version_id.as_deref());
    match told {
        Told::Warning => tracing::warn!(job_id, subject, bucket, key, version_id, attempt, "{what}"),
        Told::Debug => tracing::debug!(job_id, subject, bucket, key, version_id, attempt, "{what}"),
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
    let (bucket, key, version_id) = match object_in(job) {
        Some(object) => (Some(object.bucket), Some(object.key), object.version_id),
        None => (None, None, None),
    };
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
        bucket,
        key,
        version_id,
    };
    let record = Some(outcome::Record::Failure(failure));
    Outcome { subject: failed_subject_for(job_subject), message_id, record }
}
