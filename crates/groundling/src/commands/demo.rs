//! `groundling demo`: everything on one machine, from pictures in a bucket to a page to look at.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use async_nats::jetstream;
use engine::EngineOptions;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use kosmos2::checkpoint::ModelIdentity;
use protocol::Message;
use protocol::subjects::Dataset;
use protocol::v1::{self, ImageAnnotation, ImageJob};
use sandbox::{DemoData, EmbeddedS3, NatsOptions, NatsServer, S3Access};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use worker::events::{Events, JobEvent};
use worker::fetch::s3::ObjectStore;
use worker::settings::{NatsSettings, S3Settings, Secret, Settings, WorkerSettings};
use worker::worker::WorkerParts;
use worker::{connection, setup};

use crate::args::DemoArgs;
use crate::settings::ModelSettings;
use crate::{Outcome, model_dir};

mod show;

const DATASET: &str = "demo";
/// Events wait here for the progress bar: room for all that the demo's jobs can cause.
const EVENTS: usize = 1024;
/// An annotation that was acknowledged is in the stream; reading it back needs no longer than this.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<Outcome> {
    let data = DemoData::locate()?;
    let started = Instant::now();
    let files = tempfile::tempdir().context("no folder for the demo's objects")?;
    let mut nats = NatsServer::start(&NatsOptions::default()).await?;
    let s3 = EmbeddedS3::start(files.path()).await?;
    eprintln!("NATS at {}, S3 at {}", nats.client_url(), s3.endpoint());

    let settings = settings_for(nats.client_url(), s3.access());
    let client = connection::connect(&settings.nats, "groundling demo").await?;
    let jetstream = connection::jetstream(&client, &settings.nats);
    setup::setup(&jetstream, &settings.streams).await?;
    let jobs = upload_and_enqueue(&data, s3.access(), &settings.s3, &jetstream).await?;
    eprintln!("{} pictures are in the bucket, and as many jobs in the queue", jobs.len());

    let failures = work(&data.model_dir, settings.clone(), jobs.len()).await?;
    let annotations = read_annotations(&jetstream, &settings.streams.annotations, jobs.len() - failures).await?;
    // Before its server stops, so that no lost connection is reported.
    client.drain().await?;
    show::print(&annotations, args.format)?;
    let page = show::write(&annotations, &data, &args.out)?;
    s3.stop().await;
    nats.stop().await?;
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "{} of {} pictures annotated in {seconds:.1} s. Pictures with boxes: {}  Page: {}",
        annotations.len(),
        jobs.len(),
        args.out.display(),
        page.display()
    );
    Ok(if failures == 0 { Outcome::Done } else { Outcome::PartlyFailed })
}

fn settings_for(nats_url: &str, s3: &S3Access) -> Settings {
    Settings {
        nats: NatsSettings { url: nats_url.into(), ..NatsSettings::default() },
        s3: S3Settings {
            endpoint: Some(s3.endpoint.clone()),
            region: s3.region.clone(),
            path_style: true,
            access_key: Some(s3.access_key.clone()),
            secret_key: Some(Secret::new(s3.secret_key.clone())),
            allow: vec![s3.bucket.clone()],
            ..S3Settings::default()
        },
        worker: WorkerSettings { id: Some("demo".into()), ..WorkerSettings::default() },
        ..Settings::default()
    }
}

/// Puts every scene into the bucket and a job for it into the queue.
async fn upload_and_enqueue(
    data: &DemoData,
    access: &S3Access,
    settings: &S3Settings,
    jetstream: &jetstream::Context,
) -> anyhow::Result<Vec<String>> {
    let store = ObjectStore::new(settings).await;
    let dataset: Dataset = DATASET.parse()?;
    let mut jobs = Vec::new();
    for scene in &data.scenes {
        let picture = std::fs::read(&scene.path).with_context(|| scene.path.display().to_string())?;
        let put = store.client().put_object().bucket(&access.bucket).key(&scene.file_name).body(picture.into());
        let stored = put.send().await.with_context(|| format!("{} could not be uploaded", scene.file_name))?;
        let job = ImageJob {
            job_id: scene.file_name.clone(),
            dataset: DATASET.into(),
            source: Some(v1::image_job::Source::S3(v1::S3Object {
                bucket: access.bucket.clone(),
                key: scene.file_name.clone(),
                version_id: None,
                etag: stored.e_tag().map(str::to_owned),
            })),
            tasks: vec![v1::Task {
                task_id: "caption".into(),
                kind: Some(v1::task::Kind::BriefCaption(v1::BriefCaption {})),
            }],
            ..ImageJob::default()
        };
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, job.job_id.as_str());
        jetstream
            .publish_with_headers(dataset.jobs_subject(), headers, job.encode_to_vec().into())
            .await?
            .await
            .context("a job was not taken by the stream")?;
        jobs.push(job.job_id);
    }
    Ok(jobs)
}

/// Runs a worker until every job has ended; gives the number that failed.
async fn work(model_dir: &Path, settings: Settings, jobs: usize) -> anyhow::Result<usize> {
    let model = model_dir::open(&ModelSettings { path: Some(model_dir.into()), ..ModelSettings::default() })?;
    let (sender, mut events) = mpsc::channel(EVENTS);
    let shutdown = CancellationToken::new();
    let parts = WorkerParts {
        settings,
        engine: Arc::new(super::start_engine(model, EngineOptions::default())?),
        model: ModelIdentity::of_dir(model_dir)?,
        events: Events::to(sender),
    };
    let mut running = tokio::spawn(worker::worker::run(parts, shutdown.clone()));
    let bar = progress_bar(jobs as u64);
    let (mut ended, mut failed) = (0, 0);
    while ended < jobs {
        let event = tokio::select! {
            event = events.recv() => event,
            outcome = &mut running => bail!("the worker ended before its jobs: {:?}", outcome?.map_err(|e| anyhow!("{e}"))),
        };
        match event {
            Some(JobEvent::Finished { annotation, .. }) => {
                bar.set_message(annotation.results.first().map(|result| result.text.clone()).unwrap_or_default());
                ended += 1;
            }
            Some(JobEvent::Failed { job_id, message, .. }) => {
                bar.suspend(|| eprintln!("groundling: {}: {message}", job_id.unwrap_or_default()));
                (ended, failed) = (ended + 1, failed + 1);
            }
            Some(JobEvent::Retried { message, .. }) => bar.suspend(|| eprintln!("groundling: {message}; tried again")),
            None => break,
        }
        bar.set_position(ended as u64);
    }
    bar.finish_and_clear();
    shutdown.cancel();
    running.await??;
    Ok(failed)
}

fn progress_bar(jobs: u64) -> ProgressBar {
    let bar = ProgressBar::new(jobs);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

/// Reads the annotations back from their stream as any indexer would, in order of job.
async fn read_annotations(
    jetstream: &jetstream::Context,
    stream: &str,
    count: usize,
) -> anyhow::Result<Vec<ImageAnnotation>> {
    let stream = jetstream.get_stream(stream).await?;
    let consumer = stream.create_consumer(jetstream::consumer::pull::OrderedConfig::default()).await?;
    let mut messages = consumer.messages().await?;
    let mut annotations = Vec::with_capacity(count);
    while annotations.len() < count {
        let next = tokio::time::timeout(READ_TIMEOUT, messages.next()).await;
        let message = next.context("an annotation is missing from the stream")?.context("the stream ended")??;
        annotations.push(ImageAnnotation::decode(message.payload.clone())?);
    }
    annotations.sort_by(|a, b| a.job_id.cmp(&b.job_id));
    Ok(annotations)
}
