//! One job's way to its answer: check, fetch, decode, ask the engine. What comes then stands in [`crate::ending`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use engine::{Annotator, Request, Timings};
use kosmos2::generation::GroundedText;
use kosmos2::processor::image::{ImageError, PictureFacts, PixelValues};
use protocol::identity::{PictureOrigin, annotation_id, sha256_hex};
use protocol::job::{CheckedJob, Source};
use protocol::result::{proto_duration, task_result};
use protocol::subjects::dataset_token;
use protocol::v1::{self, Outcome, outcome};
use tokio_util::sync::CancellationToken;

use crate::decoding::Decoding;
use crate::delivery::Delivery;
use crate::ending::Ending;
use crate::events::{Events, Step};
use crate::faults::Fault;
use crate::fetch::s3::{ObjectStore, is_md5_of};
use crate::ledger::Ledger;
use crate::releases::Releases;
use crate::room::{Room, Taken};
use crate::settings::WorkerSettings;

/// Everything that jobs share.
pub(crate) struct JobContext {
    pub(crate) store: ObjectStore,
    pub(crate) engine: Arc<dyn Annotator>,
    pub(crate) ledger: Ledger,
    /// Of jobs that this worker's own settings forbid.
    pub(crate) releases: Releases,
    /// For encoded pictures.
    pub(crate) room: Room,
    /// Where pictures are decoded.
    pub(crate) decoding: Decoding,
    /// Cancelled when the worker is to end.
    pub(crate) stop: CancellationToken,
    pub(crate) model: v1::ModelIdentity,
    pub(crate) worker: v1::WorkerIdentity,
    pub(crate) settings: WorkerSettings,
    pub(crate) events: Events,
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
        self.events.step(Step::Received);
        if delivery.facts().attempt > 1 {
            // An earlier delivery may have come to an outcome and no further.
            match self.ledger.outcomes.find(delivery.facts()).await {
                Ok(Some(claim)) => return self.conclude(delivery, claim).await,
                Ok(None) => self.events.step(Step::LookedUp),
                Err(error) => return self.hand_back(delivery, &error.into()).await,
            }
        }
        match self.answer(&delivery).await {
            Ok(outcome) => self.claim(delivery, outcome).await,
            Err(fault) => self.failed(delivery, &fault).await,
        }
    }

    /// The job's annotation, within the time that it may take.
    async fn answer(&self, delivery: &Delivery) -> Result<Outcome, Fault> {
        let (tries, limit) = (self.tries(delivery.facts()).await?, self.settings.job_timeout);
        if tries > self.settings.max_deliveries {
            return Err(Fault::NeverSettled(tries - 1));
        }
        tokio::time::timeout(limit, self.annotate(delivery)).await.unwrap_or(Err(Fault::TimedOut(limit)))
    }

    async fn annotate(&self, delivery: &Delivery) -> Result<Outcome, Fault> {
        let intake = delivery.received().elapsed();
        let job = CheckedJob::from_bytes(delivery.payload().clone())?;
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
            // What is ready goes on, even at the end.
            biased;
            prepared = self.prepare(&job.source) => prepared?,
            () = self.stop.cancelled() => return Err(Fault::ShuttingDown),
        };
        let asks = job.tasks.iter().map(|task| task.ask.clone()).collect();
        let response = self.engine.submit(Request { pixels: prepared.pixels, asks, deadline: None }).await?;
        self.events.step(Step::Answered);
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
        let annotation = self.annotation(id.clone(), job, prepared.facts, response.texts, timings);
        Ok(Outcome { subject, message_id: id, record: Some(outcome::Record::Annotation(annotation)) })
    }

    async fn prepare(&self, source: &Source) -> Result<Prepared, Fault> {
        let started = Instant::now();
        let (bytes, object, taken) = match source {
            // Here already, with its job; what it waits for is that others have gone.
            Source::Inline(bytes) => (bytes.clone(), None, self.room.take(bytes.len() as u64).await),
            Source::S3(object) => {
                let (fetched, taken) = self.store.read_into(object, &self.room).await?;
                (fetched.bytes, Some(fetched.identity), taken)
            }
        };
        self.events.step(Step::Fetched);
        let fetch = started.elapsed();
        let started = Instant::now();
        let (pixels, facts) = self.decode(bytes, object, taken).await?;
        self.events.step(Step::Decoded);
        Ok(Prepared { pixels, facts, fetch, decode: started.elapsed() })
    }

    async fn decode(
        &self,
        bytes: Bytes,
        object: Option<v1::ObjectIdentity>,
        taken: Taken,
    ) -> Result<(PixelValues, v1::PictureFacts), Fault> {
        let engine = Arc::clone(&self.engine);
        let finish = move |bytes: Bytes, decoded| match decoded {
            Ok(picture) => Ok((engine.preprocess(&picture), picture_facts(&picture.facts, &bytes, object))),
            Err(error) => Err(undecodable(error, &bytes, object.as_ref())),
        };
        self.decoding.run(bytes, taken, finish).await
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

/// A broken picture is the object's own fault only if its bytes are those that the store keeps.
fn undecodable(error: ImageError, bytes: &[u8], object: Option<&v1::ObjectIdentity>) -> Fault {
    let etag = object.and_then(|object| object.etag.as_deref());
    match etag {
        // Another form of ETag names no bytes.
        Some(etag) if etag.len() == 32 && !is_md5_of(etag, bytes) => Fault::Damaged(error),
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
