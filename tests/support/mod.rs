//! A whole pool on real servers: NATS, SeaweedFS and the program itself as child processes.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::process::{ExitStatus, Output, Stdio};
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

/// Sets the variables of a store: its address, its keys, and its bucket as the one that workers may read.
pub(crate) fn with_store(command: &mut Command, access: &S3Access) {
    command
        .env("GROUNDLING__S3__ENDPOINT", &access.endpoint)
        .env("GROUNDLING__S3__PATH_STYLE", "true")
        .env("GROUNDLING__S3__ACCESS_KEY", &access.access_key)
        .env("GROUNDLING__S3__SECRET_KEY", &access.secret_key)
        .env("GROUNDLING__S3__ALLOW", &access.bucket);
}

/// The standard error of a process that has ended.
pub(crate) fn stderr_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sends a signal to a process, by its name without `SIG`.
pub(crate) fn send_signal(id: u32, name: &str) {
    let kill = std::process::Command::new("kill").arg(format!("-{name}")).arg(id.to_string()).status().unwrap();
    assert!(kill.success(), "SIG{name} cannot be sent to {id}: {kill}");
}

/// Random numbers (SplitMix64). The seed is the variable `TEST_SEED`, or else the process id. It is printed, so that a
/// test that failed can be run with the same numbers again.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn from_environment() -> Self {
        let seed: u64 = match std::env::var("TEST_SEED") {
            Ok(seed) => seed.parse().expect("TEST_SEED is a number"),
            Err(_) => std::process::id().into(),
        };
        println!("TEST_SEED={seed}");
        Self(seed)
    }

    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `end - 1`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// A number from 0 to 1, without 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        // As many bits as a double holds.
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A NATS server, an S3 store, and clients of both.
pub(crate) struct TestServers {
    pub(crate) nats: NatsServer,
    pub(crate) jetstream: jetstream::Context,
    store: SeaweedFs,
    uploads: ObjectStore,
}

impl TestServers {
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
        let servers = Self { nats, jetstream: jetstream::new(client), store, uploads };
        let setup = servers.groundling().arg("setup").output().await.unwrap();
        assert!(setup.status.success(), "{}", stderr_of(&setup));
        servers
    }

    pub(crate) fn bucket(&self) -> &S3Access {
        self.store.read_only()
    }

    /// The program with the settings for these servers in its environment. Its key can only read.
    pub(crate) fn groundling(&self) -> Command {
        let mut command = groundling();
        with_store(&mut command, self.bucket());
        command
            .env("GROUNDLING__NATS__URL", self.nats.client_url())
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
    pub(crate) async fn wait_for_outcomes(&self, count: u64) -> (Vec<ImageAnnotation>, Vec<JobFailure>) {
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
    pub(crate) async fn wait_until_queue_is_empty(&self) {
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
        self.send_sigterm();
        tokio::time::timeout(DEADLINE, self.child.wait()).await.unwrap().unwrap()
    }

    /// Terminates a worker whose stderr is piped. Returns its exit status and what it has logged.
    pub(crate) async fn terminate_and_read(self) -> (ExitStatus, String) {
        self.send_sigterm();
        let output = tokio::time::timeout(DEADLINE, self.child.wait_with_output()).await.unwrap().unwrap();
        (output.status, String::from_utf8(output.stderr).unwrap())
    }

    /// Sends SIGTERM repeatedly until the process exits, and returns its exit status.
    pub(crate) async fn terminate_until_it_ends(mut self) -> ExitStatus {
        let end = async {
            loop {
                if let Some(ended) = self.child.try_wait().unwrap() {
                    return ended;
                }
                self.send_sigterm();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(DEADLINE, end).await.unwrap()
    }

    fn send_sigterm(&self) {
        send_signal(self.child.id().expect("the worker exited before SIGTERM"), "TERM");
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
