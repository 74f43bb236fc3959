//! A NATS server and an S3 store for the duration of one command, and a worker that uses them.

use std::sync::Arc;

use anyhow::{Context, bail};
use async_nats::jetstream;
use broker::read::{self, Range, StoredMessage};
use broker::{connection, setup};
use bytes::Bytes;
use engine::Engine;
use futures::TryStreamExt;
use kosmos2::checkpoint::ModelIdentity;
use sandbox::{EmbeddedS3, NatsOptions, NatsServer};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::subjects::Dataset;
use wire::v1::{self, ImageAnnotation, ImageJob};
use worker::WorkerTelemetry;
use worker::events::{Events, JobEvent};
use worker::fetch::s3::ObjectStore;
use worker::settings::{NatsSettings, S3Settings, Secret, Settings, WorkerSettings};
use worker::worker::WorkerParts;

use crate::stderr;

/// Servers on the loopback interface, with the streams created and one bucket.
pub(crate) struct Servers {
    nats: NatsServer,
    s3: EmbeddedS3,
    client: async_nats::Client,
    jetstream: jetstream::Context,
    store: ObjectStore,
    settings: Settings,
    dataset: Dataset,
    _objects: TempDir,
}

impl Servers {
    /// Starts the servers and creates the streams. `dataset` is the dataset of all jobs, and the worker's id.
    pub(crate) async fn start(dataset: &str) -> anyhow::Result<Self> {
        let objects = tempfile::tempdir().context("cannot create a directory for the store's objects")?;
        let nats = NatsServer::start(&NatsOptions::default()).await?;
        let s3 = EmbeddedS3::start(objects.path()).await?;
        stderr::message!("NATS at {}, S3 at {}", nats.client_url(), s3.endpoint());
        let access = s3.access();
        let settings = Settings {
            nats: NatsSettings { url: nats.client_url().into(), ..NatsSettings::default() },
            s3: S3Settings {
                endpoint: Some(access.endpoint.clone()),
                region: access.region.clone(),
                path_style: true,
                access_key: Some(access.access_key.clone()),
                secret_key: Some(Secret::new(access.secret_key.clone())),
                allow: vec![access.bucket.clone()],
                ..S3Settings::default()
            },
            worker: WorkerSettings { id: Some(dataset.into()), ..WorkerSettings::default() },
            ..Settings::default()
        };
        let client = connection::connect(&settings.nats, &format!("groundling {dataset}")).await?;
        let jetstream = connection::jetstream(&client, &settings.nats);
        setup::setup(&jetstream, &settings.streams).await?;
        let (store, dataset) = (ObjectStore::open(&settings.s3).await?, dataset.parse()?);
        Ok(Self { nats, s3, client, jetstream, store, settings, dataset, _objects: objects })
    }

    /// Reads the annotations from their stream, sorted by job id.
    pub(crate) async fn annotations(&self) -> anyhow::Result<Vec<ImageAnnotation>> {
        let stored = read::read(&self.jetstream, &self.settings.streams.annotations, Range::all()).await?;
        let decode = async |stored: StoredMessage| Ok(ImageAnnotation::decode(stored.payload)?);
        let mut annotations: Vec<_> = stored.map_err(anyhow::Error::from).and_then(decode).try_collect().await?;
        annotations.sort_by(|a, b| a.job_id.cmp(&b.job_id));
        Ok(annotations)
    }

    /// Uploads an object to the bucket.
    pub(crate) async fn upload(&self, key: &str, bytes: Bytes) -> anyhow::Result<v1::S3Object> {
        let bucket = self.s3.access().bucket.clone();
        let put = self.store.client().put_object().bucket(&bucket).key(key).body(bytes.into());
        let stored = put.send().await.with_context(|| format!("cannot upload {key}"))?;
        Ok(v1::S3Object { bucket, key: key.into(), version_id: None, etag: stored.e_tag().map(str::to_owned) })
    }

    /// Enqueues a job for a brief caption of a picture.
    pub(crate) async fn enqueue(
        &self,
        job_id: &str,
        picture: v1::S3Object,
        options: Option<v1::GenerationOptions>,
    ) -> anyhow::Result<()> {
        let job = ImageJob {
            job_id: job_id.into(),
            dataset: self.dataset.to_string(),
            source: Some(v1::image_job::Source::S3(picture)),
            tasks: vec![brief_caption()],
            options,
            ..ImageJob::default()
        };
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, job_id);
        let sent =
            self.jetstream.publish_with_headers(self.dataset.jobs_subject(), headers, job.encode_to_vec().into());
        sent.await?.await.with_context(|| format!("cannot enqueue job {job_id}"))?;
        Ok(())
    }

    /// Runs a worker until `jobs` jobs have ended, and returns the number of failed jobs. Calls `watch` for each event.
    pub(crate) async fn work(
        &self,
        engine: Engine,
        model: ModelIdentity,
        jobs: usize,
        mut watch: impl FnMut(&JobEvent),
    ) -> anyhow::Result<usize> {
        // Events beyond the capacity are lost, and the count would be wrong.
        let (sender, mut events) = mpsc::channel(4 * jobs.max(1));
        let shutdown = CancellationToken::new();
        let settings = self.settings.clone();
        let (engine, telemetry) = (Arc::new(engine), WorkerTelemetry::off());
        let parts = WorkerParts { settings, engine, model, events: Events::to(sender), telemetry };
        let mut running = tokio::spawn(worker::worker::run(parts, shutdown.clone()));
        let (mut ended, mut failed) = (0, 0);
        while ended < jobs {
            let event = tokio::select! {
                event = events.recv() => event,
                outcome = &mut running => {
                    outcome??;
                    bail!("the worker ended before its jobs")
                },
            };
            let Some(event) = event else { break };
            ended += usize::from(!matches!(event, JobEvent::Retried { .. }));
            failed += usize::from(matches!(event, JobEvent::Failed { .. }));
            watch(&event);
        }
        shutdown.cancel();
        running.await??;
        Ok(failed)
    }

    /// Stops the client and then the servers, so that no lost connection is reported.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.client.drain().await?;
        self.s3.stop().await;
        self.nats.stop().await?;
        Ok(())
    }
}

/// The task of every job.
pub(crate) fn brief_caption() -> v1::Task {
    v1::Task { task_id: "caption".into(), kind: Some(v1::task::Kind::BriefCaption(v1::BriefCaption {})) }
}
