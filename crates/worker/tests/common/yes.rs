//! A whole worker whose engine answers at once, and jobs for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::{Annotator, Request, Response, ResponseFuture, Timings};
use kosmos2::checkpoint::ModelIdentity;
use kosmos2::options::{FinishReason, GroundedText};
use kosmos2::processor::image::{Picture, PixelValues};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::v1::{self, Outcome, image_job, outcome, task};
use worker::settings::S3Settings;
use worker::{Events, JobEvent, Settings, WorkerError, WorkerParts, WorkerReport, WorkerTelemetry};

use super::{PATIENCE, TestEnv, annotation};

/// Answers every query with "yes".
pub(crate) struct Yes;

impl Annotator for Yes {
    fn preprocess(&self, _: &Picture) -> PixelValues {
        PixelValues::new(vec![0.0; 3], 1).unwrap()
    }

    fn submit(&self, request: Request) -> ResponseFuture<'_> {
        let text = GroundedText {
            prompt: String::new(),
            prompt_tokens: 1,
            text: "yes".into(),
            raw_text: "yes".into(),
            token_ids: vec![2],
            logprobs: vec![0.0],
            entities: Vec::new(),
            finish_reason: FinishReason::Stop,
        };
        let texts = vec![text; request.queries.len()];
        Box::pin(async move { Ok(Response { texts, timings: Timings::default() }) })
    }
}

/// An engine whose answers the test releases one by one, and which can be marked as dead.
pub(crate) struct Held {
    pub(crate) answers: Semaphore,
    pub(crate) asked: Semaphore,
    pub(crate) dead: AtomicBool,
}

impl Held {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { answers: Semaphore::new(0), asked: Semaphore::new(0), dead: AtomicBool::new(false) })
    }
}

impl Annotator for Held {
    fn preprocess(&self, picture: &Picture) -> PixelValues {
        Yes.preprocess(picture)
    }

    fn submit(&self, request: Request) -> ResponseFuture<'_> {
        Box::pin(async move {
            self.asked.add_permits(1);
            self.answers.acquire().await.unwrap().forget();
            Yes.submit(request).await
        })
    }

    fn is_alive(&self) -> bool {
        !self.dead.load(Ordering::SeqCst)
    }
}

pub(crate) struct Running {
    pub(crate) stop: CancellationToken,
    pub(crate) events: mpsc::Receiver<JobEvent>,
    pub(crate) task: JoinHandle<Result<WorkerReport, WorkerError>>,
}

impl Running {
    pub(crate) fn start(env: &TestEnv) -> Self {
        Self::start_with(settings(env), Arc::new(Yes))
    }

    pub(crate) fn start_with(settings: Settings, engine: Arc<dyn Annotator>) -> Self {
        let (sender, events) = mpsc::channel(100);
        let parts = WorkerParts { engine, events: Events::to(sender), ..parts(settings) };
        let stop = CancellationToken::new();
        Self { stop: stop.clone(), events, task: tokio::spawn(worker::run(parts, stop)) }
    }

    pub(crate) async fn event(&mut self) -> JobEvent {
        tokio::time::timeout(PATIENCE * 4, self.events.recv()).await.expect("something should happen").unwrap()
    }

    pub(crate) async fn end(self) -> WorkerReport {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE * 4, self.task).await.expect("the worker should end").unwrap().unwrap()
    }
}

/// The settings of a worker for the servers of an environment.
pub(crate) fn settings(env: &TestEnv) -> Settings {
    let s3 = S3Settings { allow: vec!["*".into()], anonymous: true, ..Default::default() };
    Settings { nats: env.nats.clone(), streams: env.streams.clone(), s3, ..Default::default() }
}

/// A picture of one pixel.
pub(crate) fn bitmap() -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    let one = 1u32.to_le_bytes();
    for field in [&[58, 0, 0, 0][..], &[0; 4], &[54, 0, 0, 0], &[40, 0, 0, 0], &one, &one, &[1, 0, 24, 0], &[0; 24]] {
        bytes.extend(field);
    }
    bytes.extend([1, 2, 3, 0]);
    bytes
}

pub(crate) fn job(id: &str, picture: Vec<u8>) -> v1::ImageJob {
    v1::ImageJob {
        job_id: id.into(),
        dataset: "cats".into(),
        source: Some(image_job::Source::Inline(picture.into())),
        tasks: vec![v1::Task { task_id: "t".into(), kind: Some(task::Kind::BriefCaption(v1::BriefCaption {})) }],
        ..Default::default()
    }
}

pub(crate) async fn submit(env: &TestEnv, job: &v1::ImageJob) {
    env.jetstream.publish("groundling.jobs.cats", job.encode_to_vec().into()).await.unwrap().await.unwrap();
}

pub(crate) fn annotated(id: &str) -> Outcome {
    let record = Some(outcome::Record::Annotation(annotation(id)));
    Outcome { subject: "groundling.annotations.cats".into(), message_id: id.into(), record }
}

pub(crate) fn parts(settings: Settings) -> WorkerParts {
    let model = ModelIdentity { name: "yes".into(), revision: None, digest: "d".into() };
    WorkerParts { settings, engine: Arc::new(Yes), model, events: Events::none(), telemetry: WorkerTelemetry::off() }
}
