//! One job's way: check, fetch, decode, ask the engine, publish, and only then take it off the queue.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use engine::{Engine, Request, Timings};
use kosmos2::generation::GroundedText;
use kosmos2::processor::image::{DecodeOptions, PictureFacts, PixelValues, decode};
use protocol::identity::{PictureOrigin, annotation_id, failure_id, sha256_hex};
use protocol::job::{CheckedJob, Source};
use protocol::result::{proto_duration, task_result};
use protocol::subjects::{dataset_token, failed_subject_for};
use protocol::v1;

use crate::delivery::Delivery;
use crate::events::{Events, JobEvent};
use crate::faults::{Decision, Fault, FaultClass, decide};
use crate::fetch::s3::ObjectStore;
use crate::publish::{Publisher, Receipt};
use crate::settings::WorkerSettings;

/// Everything that jobs share.
pub(crate) struct JobContext {
    pub(crate) store: ObjectStore,
    pub(crate) engine: Engine,
    pub(crate) publisher: Publisher,
    pub(crate) model: v1::ModelIdentity,
    pub(crate) worker: v1::WorkerIdentity,
    pub(crate) settings: WorkerSettings,
    pub(crate) events: Events,
}

/// How a delivery ended, to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its annotation is in the stream, from now or from an earlier delivery.
    Finished { duplicate: bool },
    /// Its failure is in the stream.
    Failed,
    /// It goes back to the queue.
    Retried,
    /// It goes back to the queue, for the engine has ended and this worker with it.
    EngineStopped,
}

/// The picture as far as it is known before the engine sees it.
struct Prepared {
    pixels: PixelValues,
    facts: v1::PictureFacts,
    fetch: Duration,
    decode: Duration,
}

impl JobContext {
    /// Does the job and settles its delivery, whatever comes.
    pub(crate) async fn run(&self, delivery: Delivery) -> Ending {
        let attempt = delivery.facts().attempt;
        let limit = self.settings.job_timeout;
        let done = if attempt > self.settings.max_deliveries {
            Err(Fault::NeverSettled(attempt - 1))
        } else {
            match tokio::time::timeout(limit, self.annotate(&delivery)).await {
                Ok(done) => done,
                Err(_) => Err(Fault::TimedOut(limit)),
            }
        };
        match done {
            Ok((annotation, receipt)) => self.finished(delivery, annotation, &receipt).await,
            Err(fault) => self.failed(delivery, &fault).await,
        }
    }

    async fn annotate(&self, delivery: &Delivery) -> Result<(v1::ImageAnnotation, Receipt), Fault> {
        let intake = delivery.received().elapsed();
        let job = CheckedJob::from_bytes(delivery.payload().clone())?;
        if dataset_token(delivery.subject()) != Some(job.dataset.as_str()) {
            let (named, subject) = (job.dataset.to_string(), delivery.subject().to_owned());
            return Err(Fault::WrongSubject { named, subject });
        }
        let prepared = self.prepare(&job.source).await?;
        let prompts = job.tasks.iter().map(|task| (task.prompt.clone(), job.options.clone())).collect();
        let response = self.engine.submit(Request { pixels: prepared.pixels, prompts }).await?;
        if response.texts.len() != job.tasks.len() {
            return Err(Fault::AnswersMissing { answers: response.texts.len(), tasks: job.tasks.len() });
        }
        let origin = match &prepared.facts.object {
            Some(object) => PictureOrigin::Object(object),
            None => PictureOrigin::Inline { sha256: &prepared.facts.sha256 },
        };
        let id = annotation_id(&job, origin, &self.model.digest);
        let timings = v1::StageTimings {
            intake: Some(proto_duration(intake)),
            fetch: Some(proto_duration(prepared.fetch)),
            decode: Some(proto_duration(prepared.decode)),
            ..engine_timings(response.timings, delivery.received())
        };
        let subject = job.dataset.annotations_subject();
        let annotation = self.annotation(id, job, prepared.facts, response.texts, timings);
        let receipt = self.publisher.annotation(subject, &annotation).await?;
        Ok((annotation, receipt))
    }

    async fn prepare(&self, source: &Source) -> Result<Prepared, Fault> {
        let started = Instant::now();
        let (bytes, object) = match source {
            Source::Inline(bytes) => (bytes.clone(), None),
            Source::S3(object) => {
                let fetched = self.store.read(object).await?;
                (fetched.bytes, Some(fetched.identity))
            }
        };
        let fetch = started.elapsed();
        let started = Instant::now();
        let (pixels, facts) = self.decode(bytes, object).await?;
        Ok(Prepared { pixels, facts, fetch, decode: started.elapsed() })
    }

    /// Off the async threads, and where a panic of a decoder ends with the picture that made it.
    async fn decode(
        &self,
        bytes: Bytes,
        object: Option<v1::ObjectIdentity>,
    ) -> Result<(PixelValues, v1::PictureFacts), Fault> {
        let engine = self.engine.clone();
        let options = DecodeOptions {
            apply_orientation: self.settings.apply_orientation,
            max_pixels: self.settings.max_picture_pixels,
        };
        let decoding = tokio::task::spawn_blocking(move || {
            let picture = decode(&bytes, &options)?;
            Ok((engine.model().images().pixel_values(&picture), picture_facts(&picture.facts, &bytes, object)))
        });
        match decoding.await {
            Ok(decoded) => decoded.map_err(Fault::Picture),
            Err(error) => Err(Fault::DecoderPanicked(panic_message(error))),
        }
    }

    fn annotation(
        &self,
        annotation_id: String,
        job: CheckedJob,
        picture: v1::PictureFacts,
        texts: Vec<GroundedText>,
        timings: v1::StageTimings,
    ) -> v1::ImageAnnotation {
        let with_tokens = self.settings.publish_tokens;
        let results = job
            .tasks
            .iter()
            .zip(texts)
            .map(|(task, text)| task_result(&task.wire.task_id, text, picture.width, picture.height, with_tokens))
            .collect();
        v1::ImageAnnotation {
            annotation_id,
            job_id: job.job_id,
            dataset: job.dataset.to_string(),
            labels: job.labels,
            picture: Some(picture),
            model: Some(self.model.clone()),
            results,
            timings: Some(timings),
            worker: Some(self.worker.clone()),
            finished_at: Some(SystemTime::now().into()),
        }
    }

    async fn finished(&self, delivery: Delivery, annotation: v1::ImageAnnotation, receipt: &Receipt) -> Ending {
        let duplicate = receipt.duplicate();
        tracing::info!(
            job_id = annotation.job_id,
            dataset = annotation.dataset,
            annotation_id = annotation.annotation_id,
            duplicate,
            "job is done"
        );
        if let Err(error) = delivery.delivered(receipt).await {
            // The annotation is safe; the stream drops the second one by its id.
            tracing::warn!("{error}");
        }
        self.events.send(JobEvent::Finished { annotation: Arc::new(annotation), duplicate });
        Ending::Finished { duplicate }
    }

    async fn failed(&self, delivery: Delivery, fault: &Fault) -> Ending {
        let class = fault.class();
        match decide(class, delivery.facts().attempt, self.settings.max_deliveries) {
            Decision::DeadLetter(reason) => self.dead_letter(delivery, fault, reason).await,
            Decision::Retry(delay) => {
                self.retry(delivery, delay, fault.message()).await;
                if class == FaultClass::EngineStopped { Ending::EngineStopped } else { Ending::Retried }
            }
        }
    }

    /// The failure is in its stream before the job leaves the queue; if it cannot be put there, the job stays.
    async fn dead_letter(&self, delivery: Delivery, fault: &Fault, reason: v1::FailureReason) -> Ending {
        let facts = delivery.facts();
        let subject = delivery.subject().to_owned();
        let job_sha256 = sha256_hex(delivery.payload());
        let id = failure_id(&facts.stream, facts.sequence, facts.published_nanos, &job_sha256);
        let job_id = fault.job_id().map(str::to_owned).or_else(|| readable_job_id(delivery.payload()));
        let message = fault.message();
        let failure = v1::JobFailure {
            job: delivery.payload().clone(),
            subject: subject.clone(),
            job_id: job_id.clone(),
            reason: reason.into(),
            message: message.clone(),
            deliveries: facts.attempt,
            stream_sequence: facts.sequence,
            worker: Some(self.worker.clone()),
            failed_at: Some(SystemTime::now().into()),
            job_sha256,
            job_omitted: false,
        };
        let receipt = match self.publisher.failure(failed_subject_for(&subject), id, failure).await {
            Ok(receipt) => receipt,
            Err(error) => {
                let Decision::Retry(delay) = decide(FaultClass::StreamUnavailable, facts.attempt, u64::MAX) else {
                    return Ending::Retried;
                };
                self.retry(delivery, delay, format!("the failure of a job could not be recorded: {error}")).await;
                return Ending::Retried;
            }
        };
        tracing::warn!(job_id, subject, reason = reason.as_str_name(), "job is given up: {message}");
        if let Err(error) = delivery.reject(&receipt, reason.as_str_name()).await {
            tracing::warn!("{error}");
        }
        self.events.send(JobEvent::Failed { job_id, subject, reason, message });
        Ending::Failed
    }

    async fn retry(&self, delivery: Delivery, delay: Duration, message: String) {
        let subject = delivery.subject().to_owned();
        tracing::warn!(
            subject,
            attempt = delivery.facts().attempt,
            "job goes back to the queue for {delay:?}: {message}"
        );
        if let Err(error) = delivery.retry(delay).await {
            tracing::warn!("{error}");
        }
        self.events.send(JobEvent::Retried { subject, delay, message });
    }
}

fn picture_facts(facts: &PictureFacts, bytes: &Bytes, object: Option<v1::ObjectIdentity>) -> v1::PictureFacts {
    v1::PictureFacts {
        format: facts.format.as_str().to_owned(),
        width: facts.width,
        height: facts.height,
        size_bytes: bytes.len() as u64,
        sha256: sha256_hex(bytes),
        orientation: u32::from(facts.orientation),
        orientation_applied: facts.orientation_applied,
        object,
    }
}

fn engine_timings(timings: Timings, received: Instant) -> v1::StageTimings {
    v1::StageTimings {
        queue: Some(proto_duration(timings.queued)),
        vision: Some(proto_duration(timings.vision)),
        prefill: Some(proto_duration(timings.prefill)),
        generate: Some(proto_duration(timings.decode)),
        total: Some(proto_duration(received.elapsed())),
        ..v1::StageTimings::default()
    }
}

/// The id of a job that may break any rule but is a message.
fn readable_job_id(job: &Bytes) -> Option<String> {
    let job = <v1::ImageJob as protocol::Message>::decode(job.clone()).ok()?;
    (!job.job_id.is_empty()).then_some(job.job_id)
}

fn panic_message(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (_, Some(text)) => text.clone(),
            _ => "without a message".to_owned(),
        },
        Err(error) => error.to_string(),
    }
}
