//! A NATS server, `groundling ingest` as a process with rules, and what it has stored.

use std::process::Stdio;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use sandbox::{NatsOptions, NatsServer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Child;
use wire::Message;
use wire::subjects::{EVENTS_STREAM, JOBS_STREAM};
use wire::v1::{self, ImageJob};

use crate::support::{DEADLINE, groundling, messages, send_signal, stderr_of};

/// A server with the streams of `groundling setup` for these settings.
pub(crate) struct TestEnv {
    pub(crate) nats: NatsServer,
    pub(crate) jetstream: jetstream::Context,
    settings: TempDir,
    /// The addresses of the webhook server and of the health server.
    pub(crate) webhook: String,
    pub(crate) health: String,
}

/// A `groundling ingest` process, killed when dropped.
pub(crate) struct Ingest {
    child: Child,
}

/// An answer of an HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl TestEnv {
    /// Starts a server and creates the streams. `rules` is the part of the settings file with `[[ingest]]`.
    pub(crate) async fn start(rules: &str) -> Self {
        Self::with_server(NatsServer::start(&NatsOptions::default()).await.unwrap(), rules).await
    }

    pub(crate) async fn with_server(nats: NatsServer, rules: &str) -> Self {
        let jetstream = jetstream::new(async_nats::connect(nats.client_url()).await.unwrap());
        let [webhook, health] = free_addresses();
        let settings = tempfile::tempdir().unwrap();
        let env = Self { nats, jetstream, settings, webhook, health };
        env.write_settings(rules);
        let setup = env.command().arg("setup").output().await.unwrap();
        assert!(setup.status.success(), "{}", stderr_of(&setup));
        env
    }

    pub(crate) fn write_settings(&self, rules: &str) {
        let Self { webhook, health, .. } = self;
        let text = format!(
            "[streams]\nack_wait = \"3s\"\n[events]\nwebhook_address = \"{webhook}\"\nhealth_address = \"{health}\"\ntoken = \"secret\"\nhold = \"2s\"\nmax_event_bytes = 100000\n{rules}"
        );
        std::fs::write(self.settings.path().join("groundling.toml"), text).unwrap();
    }

    /// The program with the settings.
    pub(crate) fn command(&self) -> tokio::process::Command {
        let mut command = groundling();
        command.env("GROUNDLING__NATS__URL", self.nats.client_url());
        command.arg("--settings").arg(self.settings.path().join("groundling.toml"));
        command
    }

    /// Starts the process and waits until it is ready.
    pub(crate) async fn ingest(&self) -> Ingest {
        let ingest = self.ingest_unready();
        self.until("ready", async || self.health("/readyz").await.is_some_and(|answer| answer.status == 200)).await;
        ingest
    }

    pub(crate) fn ingest_unready(&self) -> Ingest {
        let log = std::fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        Ingest { child: self.command().arg("ingest").stderr(Stdio::from(log)).spawn().unwrap() }
    }

    /// The log of all processes so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> std::path::PathBuf {
        self.settings.path().join("log")
    }

    /// Posts an event with the token.
    pub(crate) async fn post(&self, path: &str, body: &[u8]) -> Answer {
        request(&self.webhook, "POST", path, &[("Authorization", "Bearer secret")], body).await.unwrap()
    }

    pub(crate) async fn health(&self, path: &str) -> Option<Answer> {
        request(&self.health, "GET", path, &[], b"").await.ok()
    }

    /// The number of records of a rule with this outcome, with this reason or with any.
    pub(crate) async fn records(&self, rule: &str, outcome: &str, reason: Option<&str>) -> u64 {
        let metrics = self.health("/metrics").await.unwrap().body;
        let labels = [Some(("rule", rule)), Some(("outcome", outcome)), reason.map(|reason| ("reason", reason))];
        let labels: Vec<_> = labels.into_iter().flatten().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let is_it = |line: &&str| {
            line.starts_with("groundling_ingest_records_total{") && labels.iter().all(|label| line.contains(label))
        };
        let found = metrics.lines().filter(is_it).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
        found.sum::<f64>() as u64
    }

    /// The number of requests with this status.
    pub(crate) async fn requests(&self, status: u16) -> u64 {
        let metrics = self.health("/metrics").await.unwrap().body;
        let name = format!("groundling_ingest_requests_total{{status=\"{status}\"}} ");
        let found = metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
        found.parse::<f64>().unwrap() as u64
    }

    /// Publishes an event and waits for the stream's acknowledgement.
    pub(crate) async fn publish(&self, subject: &str, body: impl Into<String>) {
        let body: String = body.into();
        self.jetstream.publish(subject.to_owned(), body.into()).await.unwrap().await.unwrap();
    }

    /// Waits until the events stream is empty: all events are acknowledged.
    pub(crate) async fn wait_until_events_are_done(&self) {
        self.until("handled", async || messages(&self.jetstream, EVENTS_STREAM).await == 0).await;
    }

    /// Waits until a condition holds.
    pub(crate) async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let started = Instant::now();
        while !holds().await {
            assert!(started.elapsed() < DEADLINE, "not {what} within {DEADLINE:?}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All jobs, in the order of the stream, with their headers. The stream is not changed.
    pub(crate) async fn jobs(&self) -> Vec<(ImageJob, async_nats::HeaderMap)> {
        let stream = self.jetstream.get_stream(JOBS_STREAM).await.unwrap();
        let state = &stream.cached_info().state;
        let mut jobs = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await.unwrap();
            jobs.push((ImageJob::decode(message.payload).unwrap(), message.headers));
        }
        jobs
    }

    /// The keys of all jobs, in alphabetical order.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.jobs().await.iter().map(|(job, _)| object(job).key).collect();
        keys.sort();
        keys
    }

    /// Bounds the number of messages of the jobs stream; -1 for no bound.
    pub(crate) async fn bound_jobs(&self, max_messages: i64) {
        let config = self.jetstream.get_stream(JOBS_STREAM).await.unwrap().cached_info().config.clone();
        self.jetstream.update_stream(stream::Config { max_messages, ..config }).await.unwrap();
    }
}

impl Ingest {
    /// Kills the process (SIGKILL).
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Terminates the process (SIGTERM) and waits for its end.
    pub(crate) async fn terminate(mut self) {
        send_signal(self.id(), "TERM");
        let ended = tokio::time::timeout(DEADLINE, self.child.wait()).await.unwrap().unwrap();
        assert!(ended.success(), "{ended}");
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap()
    }
}

/// Two addresses that nothing listens on.
pub(crate) fn free_addresses() -> [String; 2] {
    [(); 2].map(|()| sandbox::free_address().unwrap().to_string())
}

/// Sends a request on a connection of its own.
pub(crate) async fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    // A server that rejects a request may close the connection before it has read the body.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or(std::io::ErrorKind::InvalidData)?;
    Ok(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
}

/// The object of a job.
pub(crate) fn object(job: &ImageJob) -> v1::S3Object {
    match &job.source {
        Some(v1::image_job::Source::S3(object)) => object.clone(),
        other => panic!("{other:?}"),
    }
}

/// A message of MinIO about these keys, which are written as they are, with ETags made from them.
pub(crate) fn minio(keys: &[&str]) -> String {
    let records = keys.iter().map(|key| {
        serde_json::json!({
            "eventVersion": "2.0", "eventSource": "minio:s3", "eventTime": "2026-11-29T12:00:00.000Z",
            "eventName": "s3:ObjectCreated:Put",
            "s3": {"bucket": {"name": "pictures"}, "object": {"key": key, "size": 10, "eTag": format!("etag-{key}")}},
        })
    });
    let records: Vec<_> = records.collect();
    serde_json::json!({"EventName": "s3:ObjectCreated:Put", "Key": "pictures/x", "Records": records}).to_string()
}
