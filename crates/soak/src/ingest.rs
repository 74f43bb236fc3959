//! The process of a run that turns events into jobs: `groundling ingest`'s library, killed at random times. The store's
//! events are repeated and come in another order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use archive::ingest::record::ObjectRecord;
use archive::ingest::rule::{Rule, Selected};
use archive::ingest::settings::{EventsSettings, IngestRule};
use archive::ingest::{IngestParts, stream_subjects};
use async_nats::jetstream;
use futures::StreamExt;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use telemetry::Instruments;
use tokio::process::Child;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::subjects::EVENTS_STREAM;
use wire::v1::{self, ImageJob, task};

use crate::child_process;
use crate::stub_worker::{Sections, read_settings};

/// The dataset of the jobs.
pub const DATASET: &str = "from-events";
const SUBJECT: &str = "soak.events";
/// Maximum number of records in a message, and of messages about an object.
const MAX_RECORDS: usize = 3;
const MAX_REPEATS: usize = 3;
/// Records change their places within groups of this many. So repeats come within the duplicate window of a run, after
/// which the objects of events are annotated again.
const SHUFFLED: usize = 12;
/// Maximum number of events that are published at once.
const CONCURRENT: usize = 8;
/// One kill for this many objects, but at least [`MIN_KILLS`] and at most [`MAX_KILLS`].
const OBJECTS_PER_KILL: usize = 50;
const MIN_KILLS: usize = 2;
const MAX_KILLS: usize = 60;
/// The time after which a process is killed, in milliseconds.
const LIFE_MS: std::ops::Range<u64> = 100..1500;
/// Delay before a process that has ended is started again, and between looks at the stream.
const DELAY: Duration = Duration::from_millis(100);

fn settings() -> IngestRule {
    IngestRule {
        name: "soak".to_owned(),
        subject: Some(SUBJECT.to_owned()),
        dataset: DATASET.to_owned(),
        ..IngestRule::default()
    }
}

/// The subjects of the events stream.
pub fn subjects() -> Vec<String> {
    stream_subjects(&[settings()])
}

/// The rule.
pub fn rule() -> Rule {
    let kind = Some(task::Kind::BriefCaption(v1::BriefCaption {}));
    Rule::new(&settings(), vec![v1::Task { task_id: "brief".into(), kind }])
        .unwrap_or_else(|error| unreachable!("the settings of the rule are valid: {error}"))
}

/// The job for an object.
///
/// # Errors
/// If the rule does not select it.
pub fn job(bucket: &str, key: &str, etag: &str) -> anyhow::Result<ImageJob> {
    let record = ObjectRecord {
        event: "ObjectCreated:Put".to_owned(),
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        etag: Some(etag.to_owned()),
        ..ObjectRecord::default()
    };
    match rule().select(&record) {
        Selected::Job(job) => Ok(*job),
        other => bail!("{key} becomes no job: {other:?}"),
    }
}

/// An object whose events are published.
#[derive(Debug, Clone)]
pub struct EventObject {
    /// The bucket.
    pub bucket: String,
    /// The key, not encoded.
    pub key: String,
    /// The ETag.
    pub etag: String,
}

/// The messages about these objects: each object is in one to three of them, in an order of their own.
pub fn messages(objects: &[EventObject], seed: u64) -> Vec<String> {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0xe7e7);
    let mut records: Vec<Value> = Vec::new();
    for object in objects {
        let repeats = random.random_range(1..=MAX_REPEATS);
        records.extend(std::iter::repeat_n(record(object), repeats));
    }
    for group in records.chunks_mut(SHUFFLED) {
        group.shuffle(&mut random);
    }
    let mut messages = Vec::new();
    let mut records = records.into_iter().peekable();
    while records.peek().is_some() {
        let count = random.random_range(1..=MAX_RECORDS);
        let records: Vec<Value> = records.by_ref().take(count).collect();
        messages.push(json!({"EventName": "s3:ObjectCreated:Put", "Key": "x", "Records": records}).to_string());
    }
    messages
}

fn record(object: &EventObject) -> Value {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' => char::from(byte).to_string(),
        b' ' => "+".to_owned(),
        byte => format!("%{byte:02X}"),
    };
    let key: String = object.key.bytes().map(encode).collect();
    json!({
        "eventVersion": "2.0", "eventSource": "minio:s3", "eventName": "s3:ObjectCreated:Put",
        "s3": {"bucket": {"name": object.bucket}, "object": {"key": key, "size": 100, "eTag": object.etag}},
    })
}

/// Runs until it is killed.
///
/// # Errors
/// Those of [`archive::ingest::run`].
pub async fn run(file: &Path) -> anyhow::Result<()> {
    let Sections { nats, streams, .. } = read_settings(file)?;
    let parts = IngestParts {
        nats,
        streams,
        subjects: subjects(),
        events: EventsSettings::default(),
        rules: vec![rule()],
        instruments: Instruments::off(),
        scraper: None,
        listening: None,
    };
    Ok(archive::ingest::run(parts, CancellationToken::new()).await?)
}

/// How to start the processes, and what to publish.
#[derive(Debug)]
pub struct Ingest {
    /// The `soak` program.
    pub executable: PathBuf,
    /// The settings file.
    pub settings: PathBuf,
    /// The directory of the log.
    pub logs: PathBuf,
    /// The servers' addresses, for the publisher.
    pub url: String,
    /// The messages.
    pub messages: Vec<String>,
    /// The number of objects.
    pub objects: usize,
}

impl Ingest {
    /// Publishes all messages, and kills the process at random times until it has handled them. A share of the messages is
    /// published when the same share of `jobs` is allowed. Returns the number of kills.
    ///
    /// # Errors
    /// If a process cannot be started.
    pub async fn run(
        self,
        jetstream: jetstream::Context,
        jobs: usize,
        allowed: watch::Receiver<usize>,
        seed: u64,
    ) -> anyhow::Result<usize> {
        let ingest = Arc::new(self);
        let (published, mut all_published) = watch::channel(false);
        let publisher = Arc::clone(&ingest);
        let publishing = tokio::spawn(async move {
            publisher.publish(jobs, allowed).await?;
            published.send_replace(true);
            anyhow::Ok(())
        });
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x1e57);
        let (mut kills, max_kills) = (0, (ingest.objects / OBJECTS_PER_KILL).clamp(MIN_KILLS, MAX_KILLS));
        loop {
            let mut process = ingest.spawn()?;
            let life = Duration::from_millis(random.random_range(LIFE_MS));
            let is_killed = kills < max_kills;
            tokio::select! {
                // A process also ends if the server does not accept it for a while. The next one continues.
                ended = process.wait() => drop(ended?),
                () = tokio::time::sleep(life), if is_killed => {
                    process.kill().await?;
                    kills += 1;
                }
                handled = handled(&jetstream, &mut all_published), if !is_killed => {
                    // The error of the publisher says more than that of the channel that it has closed.
                    publishing.await??;
                    handled?;
                    process.kill().await?;
                    return Ok(kills);
                }
            }
            tokio::time::sleep(DELAY).await;
        }
    }

    async fn publish(&self, jobs: usize, allowed: watch::Receiver<usize>) -> anyhow::Result<()> {
        let servers: Vec<async_nats::ServerAddr> = self.url.split(',').filter_map(|url| url.parse().ok()).collect();
        let client = async_nats::ConnectOptions::new().retry_on_initial_connect().connect(servers).await?;
        let jetstream = jetstream::ContextBuilder::new().timeout(Duration::from_secs(5)).build(client);
        let count = self.messages.len();
        // Owned values: the compiler cannot show that a future with borrowed ones is `Send`.
        futures::stream::iter(self.messages.clone().into_iter().enumerate())
            .for_each_concurrent(CONCURRENT, |(number, message)| {
                publish_message(jetstream.clone(), message, allowed.clone(), jobs * number / count)
            })
            .await;
        Ok(())
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        child_process::spawn(&self.executable, &["ingest"], &self.settings, &self.logs.join("ingest.log"))
    }
}

/// Publishes a message until it is acknowledged, once this many jobs are allowed.
async fn publish_message(
    jetstream: jetstream::Context,
    message: String,
    mut allowed: watch::Receiver<usize>,
    share: usize,
) {
    // Fails only if the run has ended early.
    let _ = allowed.wait_for(|allowed| *allowed >= share).await;
    // Without an id: what is published again after a lost answer is one more repeat.
    while let Err(error) = publish(&jetstream, &message).await {
        tracing::debug!(%error, "an event was not published; retrying");
        tokio::time::sleep(DELAY).await;
    }
}

async fn publish(jetstream: &jetstream::Context, message: &str) -> Result<(), async_nats::Error> {
    jetstream.publish(SUBJECT, message.to_owned().into()).await?.await?;
    Ok(())
}

/// Waits until all events are published and the events stream is empty.
async fn handled(jetstream: &jetstream::Context, all_published: &mut watch::Receiver<bool>) -> anyhow::Result<()> {
    all_published.wait_for(|published| *published).await?;
    loop {
        // A server may be down.
        let stream = jetstream.get_stream(EVENTS_STREAM).await;
        if stream.is_ok_and(|stream| stream.cached_info().state.messages == 0) {
            return Ok(());
        }
        tokio::time::sleep(DELAY).await;
    }
}
