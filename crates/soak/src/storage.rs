//! `soak storage`: what messages take on the disk and in the memory of a NATS server, with and without message ids and
//! compression.

use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, stream};
use futures::TryStreamExt;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandbox::{NatsOptions, NatsServer, disk_bytes, resident_bytes};
use serde::Serialize;
use tempfile::TempDir;
use wire::identity::sha256_hex;
use wire::{Message, prost_types, v1};

use crate::plan;
use crate::process_cost::cpu_time;

/// Maximum number of publishes that wait for their acknowledgements.
const CONCURRENT: usize = 1000;
/// Longer than any measurement, so that every id is still in memory at its end.
const WINDOW: Duration = Duration::from_secs(24 * 60 * 60);
const STREAM: &str = "STORAGE";
const SUBJECT: &str = "storage.messages";
/// The words of the texts. How well texts compress depends on them.
const WORDS: &str = "a an the with of in on beside two three snowman campfire harbour bicycle mountain umbrella kitchen \
                     puppy street market bridge lantern child woman man red blue yellow small large wooden old bright";

/// The kind of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Jobs that name an S3 object.
    Jobs,
    /// Annotations of one caption with two phrases.
    Annotations,
}

/// One way to store messages.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Variant {
    /// The kind of the messages.
    pub kind: Kind,
    /// Whether they have a `Nats-Msg-Id`, which the server keeps in memory for the duplicate window.
    pub message_ids: bool,
    /// Whether the stream is compressed with S2.
    pub compressed: bool,
}

/// The result for one way.
#[derive(Debug, Clone, Serialize)]
pub struct Storage {
    /// What was stored.
    #[serde(flatten)]
    pub variant: Variant,
    /// The number of messages.
    pub messages: u64,
    /// Bytes of payload for each message.
    pub payload_bytes: f64,
    /// Bytes that the server reports for each message.
    pub reported_bytes: f64,
    /// Bytes of the stream's files for each message.
    pub disk_bytes: f64,
    /// Resident memory of the server for each message, above that of the empty server.
    pub memory_bytes: f64,
    /// CPU time of the server for each message, in microseconds.
    pub server_cpu_us: f64,
    /// Messages published per second.
    pub messages_per_s: f64,
    /// Seconds from a start of the server with this stream until it is ready.
    pub restart_s: f64,
    /// Resident memory for each message after that start.
    pub memory_bytes_after_restart: f64,
}

/// All ways that are measured.
pub const VARIANTS: [Variant; 6] = {
    const fn variant(kind: Kind, message_ids: bool, compressed: bool) -> Variant {
        Variant { kind, message_ids, compressed }
    }
    [
        variant(Kind::Jobs, false, false),
        variant(Kind::Jobs, true, false),
        variant(Kind::Jobs, false, true),
        variant(Kind::Annotations, false, false),
        variant(Kind::Annotations, true, false),
        variant(Kind::Annotations, true, true),
    ]
};

/// Stores `messages` messages in a stream of a new server.
///
/// # Errors
/// If the server fails or refuses a message.
pub async fn measure(variant: Variant, messages: u64) -> anyhow::Result<Storage> {
    let data = TempDir::new()?;
    let options = NatsOptions { data_dir: Some(data.path().to_owned()), ..NatsOptions::default() };
    let mut server = NatsServer::start(&options).await?;
    let jetstream = jetstream::new(async_nats::connect(server.client_url()).await?);
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec![SUBJECT.to_owned()],
        duplicate_window: WINDOW,
        compression: variant.compressed.then_some(stream::Compression::S2),
        ..stream::Config::default()
    };
    jetstream.create_stream(config).await?;
    let empty = memory(&server)?;
    let cpu_before = cpu_time(process(&server)?)?;

    let (started, mut random, mut payload) = (Instant::now(), ChaCha8Rng::seed_from_u64(1), 0);
    let publishes = (0..messages).map(|i| {
        let (bytes, id) = message(variant.kind, i, &mut random);
        payload += bytes.len();
        let publish = PublishMessage::build().payload(bytes.into());
        Ok(if variant.message_ids { publish.message_id(id) } else { publish })
    });
    futures::stream::iter(publishes)
        .try_for_each_concurrent(CONCURRENT, |publish| {
            let jetstream = &jetstream;
            async move {
                jetstream.send_publish(SUBJECT, publish).await?.await?;
                anyhow::Ok(())
            }
        })
        .await?;
    let elapsed = started.elapsed();

    let state = jetstream.get_stream(STREAM).await?.cached_info().state.clone();
    let server_cpu = cpu_time(process(&server)?)?.saturating_sub(cpu_before);
    let used = memory(&server)?.saturating_sub(empty);
    server.stop().await?;
    let disk = disk_bytes(data.path())?;
    let restarted = Instant::now();
    server.restart().await?;
    let restart = restarted.elapsed();
    let used_after_restart = memory(&server)?.saturating_sub(empty);

    let each = |total: f64| total / messages as f64;
    Ok(Storage {
        variant,
        messages,
        payload_bytes: each(payload as f64),
        reported_bytes: each(state.bytes as f64),
        disk_bytes: each(disk as f64),
        memory_bytes: each(used as f64),
        server_cpu_us: each(server_cpu.as_secs_f64() * 1e6),
        messages_per_s: messages as f64 / elapsed.as_secs_f64(),
        restart_s: restart.as_secs_f64(),
        memory_bytes_after_restart: each(used_after_restart as f64),
    })
}

fn process(server: &NatsServer) -> anyhow::Result<u32> {
    server.process_id().context("the NATS server is not running")
}

fn memory(server: &NatsServer) -> anyhow::Result<u64> {
    Ok(resident_bytes(process(server)?)?)
}

/// Message `i` and its id.
fn message(kind: Kind, i: u64, random: &mut ChaCha8Rng) -> (Vec<u8>, String) {
    let key = format!("archive/{:04}/{:04}/picture-{i:010}.jpg", i / 1_000_000, i / 1000 % 1000);
    match kind {
        Kind::Jobs => {
            let id = format!("archive-{i}");
            (plan::plain_job(&id, "pictures", &key, Vec::new()).payload, id)
        }
        Kind::Annotations => {
            let annotation = annotation(i, key, random);
            (annotation.encode_to_vec(), annotation.annotation_id)
        }
    }
}

/// An annotation as a worker publishes it for one caption: digests, numbers and corners that do not compress, and words
/// that do.
fn annotation(i: u64, key: String, random: &mut ChaCha8Rng) -> v1::ImageAnnotation {
    let digest = |what: &str| sha256_hex(format!("{what} {i}").as_bytes());
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut phrase = |length: usize| {
        let chosen: Vec<&str> = (0..length).filter_map(|_| words.choose(random).copied()).collect();
        chosen.join(" ")
    };
    let (first, between, second) = (phrase(4), phrase(3), phrase(5));
    let answer = format!("{first} {between} {second}");
    let text = format!("An image of {answer}");
    let duration = |random: &mut ChaCha8Rng| {
        Some(prost_types::Duration { seconds: 0, nanos: random.random_range(1_000_000..900_000_000) })
    };
    v1::ImageAnnotation {
        annotation_id: digest("annotation"),
        job_id: digest("job").split_off(32),
        dataset: "archive".to_owned(),
        picture: Some(v1::PictureFacts {
            format: "jpeg".to_owned(),
            width: random.random_range(400..4000),
            height: random.random_range(400..4000),
            size_bytes: random.random_range(20_000..4_000_000),
            sha256: digest("picture"),
            orientation: 1,
            object: Some(v1::ObjectIdentity {
                bucket: "pictures".to_owned(),
                key,
                etag: Some(digest("etag").split_off(32)),
                version_id: None,
            }),
            ..v1::PictureFacts::default()
        }),
        model: Some(v1::ModelIdentity {
            name: "microsoft/kosmos-2-patch14-224".to_owned(),
            revision: None,
            digest: sha256_hex(b"model"),
        }),
        results: vec![v1::TaskResult {
            task_id: "caption".to_owned(),
            prompt: "<grounding>An image of".to_owned(),
            raw_text: format!(
                "<grounding>An image of<phrase> {first}</phrase><object><patch_index_{:04}><patch_index_{:04}></object> \
                 {between}<phrase> {second}</phrase><object><patch_index_{:04}><patch_index_{:04}></object>",
                random.random_range(0..1024),
                random.random_range(0..1024),
                random.random_range(0..1024),
                random.random_range(0..1024)
            ),
            entities: vec![entity(first, random), entity(second, random)],
            text,
            answer,
            finish_reason: v1::FinishReason::Stop.into(),
            prompt_tokens: 71,
            generated_tokens: random.random_range(16..64),
            ..v1::TaskResult::default()
        }],
        timings: Some(v1::StageTimings {
            intake: duration(random),
            fetch: duration(random),
            decode: duration(random),
            queue: duration(random),
            vision: duration(random),
            prefill: duration(random),
            generate: duration(random),
            total: duration(random),
        }),
        worker: Some(v1::WorkerIdentity {
            worker_id: format!("pool-groundling-{:05}", random.random_range(0..64)),
            ..v1::WorkerIdentity::default()
        }),
        finished_at: Some(prost_types::Timestamp {
            seconds: 1_780_000_000 + i as i64 / 1000,
            nanos: random.random_range(0..1_000_000_000),
        }),
        ..v1::ImageAnnotation::default()
    }
}

fn entity(phrase: String, random: &mut ChaCha8Rng) -> v1::Entity {
    let mut corner = || f64::from(random.random_range(0..32_u32)) / 32.0;
    let (x0, y0, x1, y1) = (corner(), corner(), corner(), corner());
    let mut moved = |side: f64| side + random.random_range(-0.015..0.015);
    let refined = v1::FractionBox { x0: moved(x0), y0: moved(y0), x1: moved(x1), y1: moved(y1) };
    v1::Entity {
        span: Some(v1::CodePointSpan { start: 12, end: 12 + phrase.len() as i32 }),
        byte_span: Some(v1::ByteSpan { start: 12, end: 12 + phrase.len() as u32 }),
        phrase,
        boxes: vec![v1::GroundedBox {
            fractions: Some(v1::FractionBox { x0, y0, x1, y1 }),
            pixels: Some(v1::PixelBox { x0: x0 * 640.0, y0: y0 * 480.0, x1: x1 * 640.0, y1: y1 * 480.0 }),
            score: Some(random.random()),
            refined: Some(refined),
        }],
        score: Some(random.random()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn compressed_annotations_take_less_disk() {
        let annotations = |compressed| Variant { kind: Kind::Annotations, message_ids: true, compressed };
        let plain = measure(annotations(false), 20_000).await.unwrap();
        let compressed = measure(annotations(true), 20_000).await.unwrap();
        assert!(plain.payload_bytes > 500.0 && plain.reported_bytes > plain.payload_bytes, "{plain:?}");
        assert!(compressed.disk_bytes < 0.9 * plain.disk_bytes, "{compressed:?} {plain:?}");
    }
}
