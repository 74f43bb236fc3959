//! Processes one job up to its annotation: checks it, reads and decodes its picture, and runs the model. The rest is in
//! [`crate::settle`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use engine::{Annotator, Request, Timings};
use kosmos2::options::GroundedText;
use kosmos2::processor::image::{ImageError, PictureFacts, PixelValues};
use telemetry::attributes::Stage;
use tokio_util::sync::CancellationToken;
use wire::identity::{PictureOrigin, annotation_id, sha256_hex};
use wire::job::{CheckedJob, Source};
use wire::proto_duration;
use wire::subjects::dataset_token;
use wire::v1::{self, Outcome, outcome};

use crate::annotation::task_result;
use crate::byte_budget::{ByteBudget, Reservation};
use crate::circuit_breaker::CircuitBreakers;
use crate::decoding::DecodePool;
use crate::delivery::Delivery;
use crate::events::{Events, Step};
use crate::faults::Fault;
use crate::fetch::Fetched;
use crate::fetch::s3::{ObjectStore, ReadError, is_md5, is_md5_of};
use crate::model_job::ModelJob;
use crate::read_monitor::ReadMonitor;
use crate::settings::WorkerSettings;
use crate::settle::{Settled, Settler};
use crate::slow_reads::SlowReads;

/// What all jobs share.
pub(crate) struct JobContext {
    pub(crate) store: ObjectStore,
    pub(crate) engine: Arc<dyn Annotator>,
    pub(crate) settler: Settler,
    pub(crate) slow_reads: SlowReads,
    pub(crate) circuit_breakers: CircuitBreakers,
    /// The memory for encoded pictures.
    pub(crate) budget: ByteBudget,
    pub(crate) decoding: DecodePool,
    /// Cancelled when the worker shuts down.
    pub(crate) stop: CancellationToken,
    /// Cancelled when `worker.shutdown_timeout` is over: unfinished jobs are released.
    pub(crate) abandon: CancellationToken,
    pub(crate) model: v1::ModelIdentity,
    pub(crate) settings: WorkerSettings,
    pub(crate) events: Events,
}

/// A picture that is ready for the engine.
struct Prepared {
    pixels: PixelValues,
    facts: v1::PictureFacts,
    fetch: Duration,
    decode: Duration,
}

/// A picture that is not decoded yet.
struct EncodedPicture {
    bytes: Bytes,
    object: Option<v1::ObjectIdentity>,
    /// The MD5 of the object's bytes if they differ from `bytes`, see [`Fetched::stored_md5`].
    stored_md5: Option<String>,
}

impl EncodedPicture {
    fn inline(bytes: Bytes) -> Self {
        Self { bytes, object: None, stored_md5: None }
    }
}

impl From<Fetched> for EncodedPicture {
    fn from(fetched: Fetched) -> Self {
        Self { bytes: fetched.bytes, object: Some(fetched.identity), stored_md5: fetched.stored_md5 }
    }
}

impl JobContext {
    /// Processes the job and settles its delivery.
    pub(crate) async fn run(&self, delivery: Delivery) -> Settled {
        let log_scope = delivery.telemetry.log_scope();
        // Boxed: the compiler limits how deeply futures nest.
        log_scope.run(Box::pin(self.process(delivery))).await
    }

    async fn process(&self, mut delivery: Delivery) -> Settled {
        self.events.step(Step::Received);
        if delivery.info().deliveries > 1 {
            // An earlier delivery may have claimed an outcome and not published it.
            match self.settler.publisher.outcomes.find(delivery.info()).await {
                Ok(Some(claim)) => return self.settler.publish_claimed(delivery, claim).await,
                Ok(None) => self.events.step(Step::LookedUp),
                Err(error) => return self.settler.release(delivery, &error.into()).await,
            }
        }
        match self.settler.attempts.start(delivery.info()).await {
            Ok(started) => delivery.started = started,
            Err(error) => return self.settler.release(delivery, &error.into()).await,
        }
        let answer = self.answer(&delivery).await;
        self.settler.settle(delivery, answer).await
    }

    /// The job's annotation, within `worker.job_timeout`.
    async fn answer(&self, delivery: &Delivery) -> Result<Outcome, Fault> {
        let (attempts, limit) = (delivery.started.earlier, self.settings.job_timeout);
        if attempts >= self.settings.max_deliveries {
            let last_error = self.settler.attempts.last_error(delivery.info()).await;
            return Err(Fault::AttemptsExhausted { attempts, last_error });
        }
        tokio::select! {
            answer = tokio::time::timeout(limit, self.annotate(delivery)) => answer.unwrap_or(Err(Fault::TimedOut(limit))),
            () = self.abandon.cancelled() => Err(Fault::ShuttingDown),
        }
    }

    async fn annotate(&self, delivery: &Delivery) -> Result<Outcome, Fault> {
        let intake = delivery.received().elapsed();
        let ModelJob { job, queries } = ModelJob::from_bytes(delivery.payload().clone())?;
        delivery.telemetry.job_id(&job.job_id);
        if dataset_token(delivery.subject()) != Some(job.dataset.as_str()) {
            let (named, subject) = (job.dataset.to_string(), delivery.subject().to_owned());
            return Err(Fault::WrongSubject { named, subject });
        }
        if !self.settings.allow_raw_prompts
            && let Some(task_id) = job.task_with_markup()
        {
            return Err(Fault::MarkupNotAllowed { task_id: task_id.to_owned() });
        }
        let prepared = tokio::select! {
            // A picture that is ready is processed even if the worker shuts down.
            biased;
            prepared = self.prepare(&job.source, delivery) => prepared?,
            () = self.stop.cancelled() => return Err(Fault::ShuttingDown),
        };
        let request = Request { pixels: prepared.pixels, queries };
        let response = delivery.telemetry.engine(self.engine.submit(request)).await?;
        self.events.step(Step::Answered);
        if response.texts.len() != job.tasks.len() {
            return Err(Fault::WrongAnswerCount { answers: response.texts.len(), tasks: job.tasks.len() });
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
        let annotation = self.annotation(id.clone(), job, prepared.facts, response.texts, timings);
        Ok(Outcome { subject, message_id: id, record: Some(outcome::Record::Annotation(annotation)) })
    }

    async fn prepare(&self, source: &Source, delivery: &Delivery) -> Result<Prepared, Fault> {
        let started = Instant::now();
        let (encoded, reservation) = delivery.telemetry.stage(Stage::Fetch, self.read(source, delivery)).await?;
        self.events.step(Step::Fetched);
        let fetch = started.elapsed();
        let started = Instant::now();
        let (pixels, facts) = delivery.telemetry.stage(Stage::Decode, self.decode(encoded, reservation)).await?;
        self.events.step(Step::Decoded);
        Ok(Prepared { pixels, facts, fetch, decode: started.elapsed() })
    }

    async fn read(&self, source: &Source, delivery: &Delivery) -> Result<(EncodedPicture, Reservation), Fault> {
        Ok(match source {
            // Its bytes are in memory already, but it must wait until the budget has room for them.
            Source::Inline(bytes) => {
                (EncodedPicture::inline(bytes.clone()), self.budget.reserve(bytes.len() as u64).await)
            }
            Source::S3(object) => {
                let (fetched, reservation) = self.fetch(object, delivery).await?;
                (fetched.into(), reservation)
            }
        })
    }

    async fn fetch(&self, object: &v1::S3Object, delivery: &Delivery) -> Result<(Fetched, Reservation), Fault> {
        self.circuit_breakers.admit(&object.bucket, &object.key)?;
        let dataset = dataset_token(delivery.subject()).unwrap_or_default();
        let exchange = |permit| delivery.exchange_slot(permit);
        let mut monitor = ReadMonitor::new(&self.slow_reads, delivery.queue(), dataset, exchange);
        let read = self.store.read_into(object, &self.budget, &mut monitor).await;
        delivery.telemetry.object_read(&read, monitor.reading_time());
        let error = match read {
            Err(ReadError::Aborted(reason)) => return Err(reason.into()),
            Ok(read) => {
                self.circuit_breakers.record(&object.bucket, &object.key, Ok(()));
                return Ok(read);
            }
            Err(ReadError::Failed(error)) => error,
        };
        self.circuit_breakers.record(&object.bucket, &object.key, Err(&error));
        Err(error.into())
    }

    async fn decode(
        &self,
        picture: EncodedPicture,
        reservation: Reservation,
    ) -> Result<(PixelValues, v1::PictureFacts), Fault> {
        let EncodedPicture { bytes, object, stored_md5 } = picture;
        let engine = Arc::clone(&self.engine);
        let finish = move |bytes: Bytes, decoded| match decoded {
            Ok(picture) => Ok((engine.preprocess(&picture), picture_facts(&picture.facts, &bytes, object))),
            Err(error) => Err(undecodable(error, &bytes, object.as_ref(), stored_md5.as_deref())),
        };
        self.decoding.run(bytes, reservation, finish).await
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
            .map(|(task, text)| task_result(&task.task_id, text, picture.width, picture.height, with_tokens))
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
            worker: Some(self.settler.worker.clone()),
            finished_at: Some(SystemTime::now().into()),
        }
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

/// The fault of a picture that cannot be decoded. It is the object's own fault only if the bytes match the ETag.
fn undecodable(
    error: ImageError,
    bytes: &[u8],
    object: Option<&v1::ObjectIdentity>,
    stored_md5: Option<&str>,
) -> Fault {
    let etag = object.and_then(|object| object.etag.as_deref());
    let matches = |etag: &str| match stored_md5 {
        Some(stored) => etag.eq_ignore_ascii_case(stored),
        None => is_md5_of(etag, bytes),
    };
    match etag {
        Some(etag) if is_md5(etag) && !matches(etag) => Fault::Damaged(error),
        _ => Fault::Picture(error),
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
