//! How many jobs a second a worker sees through where the model costs nothing: everything else, on servers of its own.
//! `cargo run --release -p worker --example without_model -- JOBS SLOTS PICTURE…` prints the rate, what a job takes from
//! stage to stage (means) and the processor time a job.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a program that only prints")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Annotator, Answer, Request, Response, Timings};
use futures::{StreamExt, stream};
use kosmos2::checkpoint::ModelIdentity;
use kosmos2::generation::{FinishReason, GroundedText};
use kosmos2::processor::image::{ImageProcessor, Picture, PixelValues};
use protocol::Message;
use protocol::v1::{self, ImageJob, image_job, task};
use sandbox::{DemoData, EmbeddedS3, NatsOptions, NatsServer};
use tokio_util::sync::CancellationToken;
use worker::events::{Events, JobEvent};
use worker::fetch::s3::ObjectStore;
use worker::settings::{NatsSettings, S3Settings, Secret, Settings, WorkerSettings};
use worker::worker::WorkerParts;
use worker::{connection, setup};

/// Prepares pictures as the engine does and answers at once.
struct NoModel(ImageProcessor);

impl Annotator for NoModel {
    fn preprocess(&self, picture: &Picture) -> PixelValues {
        self.0.pixel_values(picture)
    }

    fn submit(&self, request: Request) -> Answer<'_> {
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
        let texts = vec![text; request.asks.len()];
        Box::pin(async move { Ok(Response { texts, timings: Timings::default() }) })
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = || arguments.next().and_then(|text| text.parse::<usize>().ok()).expect("JOBS SLOTS PICTURE…");
    let (jobs, slots) = (number(), number());
    let pictures: Vec<PathBuf> = arguments.map(PathBuf::from).collect();

    let objects = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(&NatsOptions::default()).await.unwrap();
    let s3 = EmbeddedS3::start(objects.path()).await.unwrap();
    let access = s3.access().clone();
    let settings = Settings {
        nats: NatsSettings { url: nats.client_url().into(), ..NatsSettings::default() },
        s3: S3Settings {
            endpoint: Some(access.endpoint.clone()),
            path_style: true,
            access_key: Some(access.access_key.clone()),
            secret_key: Some(Secret::new(access.secret_key.clone())),
            allow: vec!["*".into()],
            ..S3Settings::default()
        },
        worker: WorkerSettings { slots: Some(slots), ..WorkerSettings::default() },
        ..Settings::default()
    };
    let client = connection::connect(&settings.nats, "without_model").await.unwrap();
    let jetstream = connection::jetstream(&client, &settings.nats);
    setup::setup(&jetstream, &settings.streams).await.unwrap();
    let store = ObjectStore::new(&settings.s3).await;
    for (n, picture) in pictures.iter().enumerate() {
        let body = std::fs::read(picture).unwrap().into();
        store.client().put_object().bucket(&access.bucket).key(n.to_string()).body(body).send().await.unwrap();
    }
    let publish = |n: usize| {
        let (jetstream, bucket, key) = (&jetstream, access.bucket.clone(), (n % pictures.len()).to_string());
        let job = ImageJob {
            job_id: n.to_string(),
            dataset: "bench".into(),
            source: Some(image_job::Source::S3(v1::S3Object { bucket, key, ..Default::default() })),
            tasks: vec![v1::Task { task_id: "t".into(), kind: Some(task::Kind::BriefCaption(v1::BriefCaption {})) }],
            ..Default::default()
        };
        async move {
            jetstream.publish("groundling.jobs.bench", job.encode_to_vec().into()).await.unwrap().await.unwrap();
        }
    };
    stream::iter(0..jobs).map(publish).buffer_unordered(64).for_each(|()| async {}).await;

    let model = DemoData::locate().expect("the demo's model").model_dir;
    let images = ImageProcessor::from_dir(&model).unwrap();
    let (sender, mut events) = tokio::sync::mpsc::channel(4 * jobs);
    let identity = ModelIdentity { name: "none".into(), revision: None, digest: "none".into() };
    let parts =
        WorkerParts { settings, engine: Arc::new(NoModel(images)), model: identity, events: Events::to(sender) };
    let (stop, before, started) = (CancellationToken::new(), processor_time(), Instant::now());
    let running = tokio::spawn(worker::worker::run(parts, stop.clone()));
    let (mut fetch, mut decode, mut total) = (0.0f64, 0.0f64, 0.0f64);
    for _ in 0..jobs {
        match events.recv().await.unwrap() {
            JobEvent::Finished { annotation, .. } => {
                let timings = annotation.timings.unwrap();
                for (sum, time) in
                    [(&mut fetch, timings.fetch), (&mut decode, timings.decode), (&mut total, timings.total)]
                {
                    *sum += time.map_or(0.0, |time| time.seconds as f64 + f64::from(time.nanos) * 1e-9);
                }
            }
            other => println!("{other:?}"),
        }
    }
    let (seconds, spent) = (started.elapsed().as_secs_f64(), processor_time() - before);
    let mean = |sum: f64| sum / jobs as f64 * 1e3;
    println!(
        "{jobs} jobs, {slots} in hand: {:.0} jobs/s; a job: fetch {:.1} ms, decode {:.1} ms, in all {:.1} ms; {:.2} ms of processor time in this process",
        jobs as f64 / seconds,
        mean(fetch),
        mean(decode),
        mean(total),
        spent.as_secs_f64() * 1e3 / jobs as f64,
    );
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// Processor time of this process so far.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse().unwrap())
        .collect();
    // Ticks are hundredths of a second on Linux.
    Duration::from_millis((fields[0] + fields[1]) * 10)
}
