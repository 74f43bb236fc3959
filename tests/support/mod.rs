//! A whole pool on real servers: NATS, SeaweedFS and the program itself as child processes.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures::StreamExt;
use sandbox::{DemoData, NatsOptions, NatsServer, S3Access, SeaweedFs};
use serde::Deserialize;
use tokio::process::{Child, Command};
use wire::Message;
use wire::subjects::{ANNOTATIONS_STREAM, Dataset, FAILED_STREAM, JOBS_STREAM};
use wire::v1::{self, ImageAnnotation, ImageJob, JobFailure};
use worker::fetch::s3::ObjectStore;
use worker::settings::{S3Settings, Secret};

pub(crate) const DATASET: &str = "scenes";
/// Much longer than any step takes, also on a busy machine: it is reached only if something is lost.
pub(crate) const DEADLINE: Duration = Duration::from_secs(300);

/// Phrase, code-point span and boxes.
pub(crate) type GoldenEntity = (String, (i64, i64), Vec<[f64; 4]>);

/// One entry of the demo's goldens.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Golden {
    pub(crate) file: String,
    pub(crate) prompt: String,
    pub(crate) new_ids: Vec<u32>,
    pub(crate) markup: String,
    pub(crate) text: String,
    pub(crate) entities: Vec<GoldenEntity>,
}

pub(crate) fn demo() -> DemoData {
    DemoData::locate().unwrap()
}

pub(crate) fn goldens() -> Vec<Golden> {
    serde_json::from_slice(&std::fs::read(demo().scenes_dir.join("goldens.json")).unwrap()).unwrap()
}

/// The program under test, without the settings of the caller's environment.
pub(crate) fn groundling() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_groundling"));
    command.env_remove("GROUNDLING_MODEL").env_remove("GROUNDLING_SETTINGS").env_remove("RUST_LOG");
    command.current_dir(env!("CARGO_TARGET_TMPDIR")).kill_on_drop(true);
    command
}

/// A NATS server, an S3 store, and clients of both.
pub(crate) struct Pool {
    pub(crate) nats: NatsServer,
    pub(crate) jetstream: jetstream::Context,
    store: SeaweedFs,
    uploads: ObjectStore,
}

impl Pool {
    /// Starts the servers and creates the streams with `groundling setup`.
    pub(crate) async fn start() -> Self {
        let nats = NatsServer::start(&NatsOptions::default()).await.unwrap();
        let store = SeaweedFs::start().await.unwrap();
        let client = async_nats::connect(nats.client_url()).await.unwrap();
        let uploads = ObjectStore::open(&S3Settings {
            endpoint: Some(store.endpoint().into()),
            path_style: true,
            access_key: Some(store.admin().access_key.clone()),
            secret_key: Some(Secret::new(store.admin().secret_key.clone())),
            ..S3Settings::default()
        })
        .await
        .unwrap();
        let pool = Self { nats, jetstream: jetstream::new(client), store, uploads };
        let setup = pool.groundling().arg("setup").output().await.unwrap();
        assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
        pool
    }

    pub(crate) fn bucket(&self) -> &S3Access {
        self.store.read_only()
    }

    /// The program with the settings for this pool's servers in its environment. Its key can only read.
    pub(crate) fn groundling(&self) -> Command {
        let access = self.bucket();
        let mut command = groundling();
        command
            .env("GROUNDLING__NATS__URL", self.nats.client_url())
            .env("GROUNDLING__S3__ENDPOINT", &access.endpoint)
            .env("GROUNDLING__S3__PATH_STYLE", "true")
            .env("GROUNDLING__S3__ACCESS_KEY", &access.access_key)
            .env("GROUNDLING__S3__SECRET_KEY", &access.secret_key)
            .env("GROUNDLING__S3__ALLOW", &access.bucket)
            // There is no worker with other settings.
            .env("GROUNDLING__WORKER__RELEASE_OWN_LIMITS_FOR", "0s")
            .env("GROUNDLING_MODEL", demo().model_dir);
        command
    }

    /// Starts a worker process.
    pub(crate) fn worker(&self) -> Worker {
        Worker::start(self.groundling())
    }

    pub(crate) async fn upload(&self, key: &str, bytes: Vec<u8>) {
        let put = self.uploads.client().put_object().bucket(&self.bucket().bucket).key(key).body(bytes.into());
        put.send().await.unwrap();
    }

    /// A job for an object of the bucket.
    pub(crate) fn job(&self, job_id: &str, key: &str, tasks: Vec<v1::Task>) -> ImageJob {
        let bucket = self.bucket().bucket.clone();
        ImageJob {
            job_id: job_id.into(),
            dataset: DATASET.into(),
            source: Some(v1::image_job::Source::S3(v1::S3Object { bucket, key: key.into(), ..Default::default() })),
            tasks,
            ..ImageJob::default()
        }
    }

    pub(crate) async fn enqueue(&self, job: &ImageJob) {
        self.enqueue_bytes(job.encode_to_vec()).await;
    }

    pub(crate) async fn enqueue_bytes(&self, bytes: Vec<u8>) {
        let subject = DATASET.parse::<Dataset>().unwrap().jobs_subject();
        self.jetstream.publish(subject, bytes.into()).await.unwrap().await.unwrap();
    }

    /// Waits until the annotations and failed streams have `count` messages together, and returns all of them.
    pub(crate) async fn outcomes(&self, count: u64) -> (Vec<ImageAnnotation>, Vec<JobFailure>) {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let (done, failed) = (self.messages(ANNOTATIONS_STREAM).await, self.messages(FAILED_STREAM).await);
            if done + failed >= count {
                return (self.read(ANNOTATIONS_STREAM, done).await, self.read(FAILED_STREAM, failed).await);
            }
            // The total time depends on the machine, so only a time without progress is an error.
            if done + failed > last {
                (last, since) = (done + failed, Instant::now());
            }
            assert!(
                since.elapsed() < DEADLINE,
                "no progress for {DEADLINE:?}: {done} annotations and {failed} failures of {count}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the jobs stream is empty: acknowledged jobs are removed.
    pub(crate) async fn queue_is_empty(&self) {
        let start = Instant::now();
        while self.messages(JOBS_STREAM).await > 0 {
            assert!(start.elapsed() < DEADLINE, "jobs stay in the queue");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn messages(&self, stream: &str) -> u64 {
        messages(&self.jetstream, stream).await
    }

    async fn read<M: Message + Default>(&self, stream: &str, count: u64) -> Vec<M> {
        read(&self.jetstream, stream, count).await
    }
}

/// The number of messages in a stream.
pub(crate) async fn messages(jetstream: &jetstream::Context, stream: &str) -> u64 {
    jetstream.get_stream(stream).await.unwrap().cached_info().state.messages
}

/// The first `count` messages of a stream.
pub(crate) async fn read<M: Message + Default>(jetstream: &jetstream::Context, stream: &str, count: u64) -> Vec<M> {
    let stream = jetstream.get_stream(stream).await.unwrap();
    let ordered = jetstream::consumer::pull::OrderedConfig::default();
    let messages = stream.create_consumer(ordered).await.unwrap().messages().await.unwrap();
    let decode = |message: Result<jetstream::Message, _>| M::decode(message.unwrap().payload.clone()).unwrap();
    let read = messages.take(count as usize).map(decode).collect();
    tokio::time::timeout(DEADLINE, read).await.unwrap()
}

/// A `groundling worker` process.
pub(crate) struct Worker {
    child: Child,
}

impl Worker {
    /// Starts a worker with inherited stderr. The command has the settings.
    pub(crate) fn start(mut groundling: Command) -> Self {
        groundling.stderr(Stdio::inherit());
        Self::start_with_stderr(groundling)
    }

    /// Starts a worker with the command's own stderr.
    pub(crate) fn start_with_stderr(mut groundling: Command) -> Self {
        Self { child: groundling.arg("worker").spawn().unwrap() }
    }

    /// Whether the process is running.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Terminates the process (SIGTERM) and waits for its exit status.
    pub(crate) async fn terminate(mut self) -> ExitStatus {
        assert!(self.signal().await, "the worker exited before SIGTERM");
        tokio::time::timeout(DEADLINE, self.child.wait()).await.unwrap().unwrap()
    }

    /// Sends SIGTERM repeatedly until the process exits, and returns its exit status.
    pub(crate) async fn terminate_until_it_ends(mut self) -> ExitStatus {
        let end = async {
            loop {
                if let Some(ended) = self.child.try_wait().unwrap() {
                    return ended;
                }
                self.signal().await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(DEADLINE, end).await.unwrap()
    }

    async fn signal(&mut self) -> bool {
        let Some(id) = self.child.id() else { return false };
        Command::new("kill").args(["-TERM", &id.to_string()]).status().await.unwrap().success()
    }
}

pub(crate) fn caption() -> v1::Task {
    v1::Task { task_id: "caption".into(), kind: Some(v1::task::Kind::BriefCaption(v1::BriefCaption {})) }
}

pub(crate) fn raw(task_id: &str, text: &str) -> v1::Task {
    let raw = v1::RawPrompt { text: text.into(), phrase_boxes: Vec::new() };
    v1::Task { task_id: task_id.into(), kind: Some(v1::task::Kind::Raw(raw)) }
}

/// A result's entities in the format of the goldens.
pub(crate) fn entities(result: &v1::TaskResult) -> Vec<GoldenEntity> {
    let corners = |b: &v1::GroundedBox| {
        let b = b.fractions.as_ref().unwrap();
        [b.x0, b.y0, b.x1, b.y1]
    };
    let entity = |e: &v1::Entity| {
        let span = e.span.as_ref().unwrap();
        (e.phrase.clone(), (span.start.into(), span.end.into()), e.boxes.iter().map(corners).collect())
    };
    result.entities.iter().map(entity).collect()
}
