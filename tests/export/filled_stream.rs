//! A stream of annotations made from the truth of the demo's scenes, or of synthetic ones.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use kosmos2::grounding::markup;
use sandbox::{EmbeddedS3, NatsOptions, NatsServer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use wire::Message;
use wire::identity::sha256_hex;
use wire::v1::{self, ImageAnnotation};

use crate::support::{demo, groundling, stderr_of, with_store};

pub(crate) const DATASET: &str = "scenes";
pub(crate) const SUBJECT: &str = "groundling.annotations.scenes";
pub(crate) const STREAM: &str = "GROUNDLING_ANNOTATIONS";
/// Arguments of an export with small shards.
pub(crate) const JSONL: [&str; 4] = ["--format", "jsonl", "--shard-size", "10"];

/// A NATS server with the streams of `groundling setup`, a bucket, and a directory for exports.
pub(crate) struct TestEnv {
    pub(crate) nats: NatsServer,
    pub(crate) jetstream: jetstream::Context,
    pub(crate) s3: EmbeddedS3,
    pub(crate) objects: TempDir,
    pub(crate) dir: TempDir,
}

impl TestEnv {
    pub(crate) async fn start() -> Self {
        let (objects, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let s3 = EmbeddedS3::start(objects.path()).await.unwrap();
        let nats = NatsServer::start(&NatsOptions::default()).await.unwrap();
        let jetstream = jetstream::new(async_nats::connect(nats.client_url()).await.unwrap());
        let env = Self { nats, jetstream, s3, objects, dir };
        let setup = env.groundling(&["setup"]).output().await.unwrap();
        assert!(setup.status.success(), "{}", stderr_of(&setup));
        env
    }

    pub(crate) fn groundling(&self, arguments: &[&str]) -> Command {
        let mut command = groundling();
        with_store(&mut command, self.s3.access());
        command.env("GROUNDLING__NATS__URL", self.nats.client_url()).args(arguments);
        command
    }

    pub(crate) fn export_command(&self, out: &str, arguments: &[&str]) -> Command {
        let out = if out.starts_with("s3://") { out.to_owned() } else { self.path(out) };
        self.groundling(&[&["export", "--dataset", DATASET, "--out", &out, "--summary", "json"], arguments].concat())
    }

    /// Exports into a directory of this name, or to an address in S3.
    pub(crate) async fn export(&self, out: &str, arguments: &[&str]) -> Output {
        self.export_command(out, arguments).output().await.unwrap()
    }

    /// Exports, and returns the summary.
    pub(crate) async fn exported(&self, out: &str, arguments: &[&str]) -> Value {
        let output = self.export(out, arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", stderr_of(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Publishes an annotation as a worker does, and returns its sequence. With `suffix`, the stream does not recognize
    /// an annotation that it has already: it stands for one that comes after the duplicate window.
    pub(crate) async fn publish(&self, annotation: &ImageAnnotation, suffix: &str) -> u64 {
        let message = PublishMessage::build()
            .payload(annotation.encode_to_vec().into())
            .message_id(format!("{}{suffix}", annotation.annotation_id));
        let subject = format!("groundling.annotations.{}", annotation.dataset);
        self.jetstream.send_publish(subject, message).await.unwrap().await.unwrap().sequence
    }

    /// Publishes many annotations.
    pub(crate) async fn fill(&self, annotations: impl IntoIterator<Item = ImageAnnotation>) {
        let mut waiting = Vec::new();
        for annotation in annotations {
            let payload = annotation.encode_to_vec().into();
            waiting.push(self.jetstream.publish(SUBJECT, payload).await.unwrap());
            if waiting.len() == 500 {
                for ack in waiting.drain(..) {
                    ack.await.unwrap();
                }
            }
        }
        for ack in waiting {
            ack.await.unwrap();
        }
    }

    /// Publishes the annotations of the scenes, uploads their pictures, and returns what readers must find.
    pub(crate) async fn fill_with_scenes(&self) -> Truth {
        let bucket = self.s3.access().bucket.clone();
        let mut truth = Truth { annotations: Vec::new(), messages: BTreeMap::new(), categories: categories() };
        for (index, scene) in scenes().iter().enumerate() {
            let file = scene["file"].as_str().unwrap();
            let bytes = std::fs::read(demo().scenes_dir.join(file)).unwrap();
            std::fs::write(self.objects.path().join(&bucket).join(file), &bytes).unwrap();
            let annotation = annotation(index, scene, &bucket, &bytes);
            let sequence = self.publish(&annotation, "").await;
            // Other datasets are in the same stream.
            if index.is_multiple_of(5) {
                let other = ImageAnnotation { dataset: "other".into(), ..annotation.clone() };
                self.publish(&other, "-other").await;
            }
            truth.annotations.push(told(sequence, file, &annotation));
            truth.messages.insert(sequence, annotation);
        }
        truth
    }
}

/// What readers must find.
pub(crate) struct Truth {
    pub(crate) annotations: Vec<Value>,
    pub(crate) messages: BTreeMap<u64, ImageAnnotation>,
    /// The name of each object by the phrases for it.
    pub(crate) categories: BTreeMap<String, String>,
}

impl Truth {
    pub(crate) fn write(&self, path: &str) {
        let truth = json!({ "annotations": self.annotations, "categories": self.categories });
        std::fs::write(path, truth.to_string()).unwrap();
    }

    /// Writes a file for `--categories`.
    pub(crate) fn write_categories(&self, path: &str) {
        let mut phrases = BTreeMap::<&str, Vec<&str>>::new();
        for (phrase, name) in &self.categories {
            phrases.entry(name).or_default().push(phrase);
        }
        let lines = phrases.iter().map(|(name, phrases)| format!("{name} = {}\n", phrases.join(", ")));
        std::fs::write(path, lines.collect::<String>()).unwrap();
    }

    pub(crate) fn boxes(&self) -> usize {
        let results = self.messages.values().flat_map(|annotation| &annotation.results);
        results.flat_map(|result| &result.entities).map(|entity| entity.boxes.len()).sum()
    }
}

/// All files below a directory with their bytes, without those that differ between runs or are unfinished.
pub(crate) fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && name != "_unfinished" {
                open.push(path);
            } else if path.is_file() {
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

pub(crate) fn scenes() -> Vec<Value> {
    let truth = std::fs::read(demo().scenes_dir.join("truth.json")).unwrap();
    let truth: Value = serde_json::from_slice(&truth).unwrap();
    truth["scenes"].as_array().unwrap().clone()
}

/// The names of the objects in the scenes, by the phrases for them in lower case.
fn categories() -> BTreeMap<String, String> {
    let mut categories = BTreeMap::new();
    for scene in scenes() {
        for grounding in scene["grounding"].as_array().unwrap() {
            let object = grounding["objects"][0].as_u64().unwrap() as usize;
            let name = scene["objects"][object]["name"].as_str().unwrap();
            categories.insert(grounding["phrase"].as_str().unwrap().to_owned(), name.to_owned());
        }
    }
    categories
}

/// A caption, a detailed caption and the grounding of the first object, as the truth has them. The truth has no scores:
/// they are made up, different for each box.
fn annotation(index: usize, scene: &Value, bucket: &str, bytes: &[u8]) -> ImageAnnotation {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (file, width, height) = (text(&scene["file"]), &scene["width"], &scene["height"]);
    let size = (width.as_u64().unwrap() as u32, height.as_u64().unwrap() as u32);
    let format = file.rsplit('.').next().unwrap().replace("jpg", "jpeg");
    let grounding = &scene["grounding"][0];
    let boxes: Vec<_> = grounding["patch_index"].as_array().unwrap().iter().map(patches).collect();
    let object = format!("<object>{}</object>", boxes.join("</delimiter_of_multi_objects/>"));
    let mut results = vec![
        result("caption", &scene["caption"]["prompt"], &text(&scene["caption"]["markup"]), size, index),
        result("detail", &scene["detail"]["prompt"], &text(&scene["detail"]["markup"]), size, index + 7),
        result("ground", &grounding["prompt"], &object, size, index + 13),
    ];
    // The phrase is part of the prompt.
    results[2].entities.iter_mut().for_each(|entity| entity.score = None);
    if index == 3 {
        results[0].text += " Ein Café: 🦊";
        results[0].answer += " Ein Café: 🦊";
        results[1] = v1::TaskResult { entities: Vec::new(), loss: Some(0.25), ..results[1].clone() };
    }
    if index == 4 {
        // A box from the prompt.
        results[2].entities[0].boxes[0].score = None;
    }
    let labels = if index.is_multiple_of(2) { vec![("camera", "7"), ("site", "a \"b\"")] } else { Vec::new() };
    let object =
        v1::ObjectIdentity { bucket: bucket.into(), key: file, etag: Some(format!("e{index}")), version_id: None };
    ImageAnnotation {
        annotation_id: sha256_hex(format!("scene {index}").as_bytes()),
        job_id: format!("job-{index}"),
        dataset: DATASET.into(),
        labels: labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        picture: Some(v1::PictureFacts {
            format,
            width: size.0,
            height: size.1,
            size_bytes: bytes.len() as u64,
            sha256: sha256_hex(bytes),
            orientation: 1,
            orientation_applied: true,
            object: Some(object),
        }),
        model: Some(v1::ModelIdentity { name: "kosmos-2-emoji".into(), revision: None, digest: "d".repeat(64) }),
        results,
        timings: Some(v1::StageTimings {
            total: Some(wire::prost_types::Duration { seconds: 1, nanos: 250_000_000 }),
            ..v1::StageTimings::default()
        }),
        worker: Some(v1::WorkerIdentity { worker_id: "w".into(), version: "0.1.0".into() }),
        finished_at: Some(wire::prost_types::Timestamp { seconds: 1_796_027_696, nanos: 1000 }),
    }
}

fn patches(pair: &Value) -> String {
    format!("<patch_index_{:04}><patch_index_{:04}>", pair[0].as_u64().unwrap(), pair[1].as_u64().unwrap())
}

fn result(task_id: &str, prompt: &Value, markup: &str, size: (u32, u32), seed: usize) -> v1::TaskResult {
    let raw_text = format!("{}{markup}", prompt.as_str().unwrap());
    let (parsed, asked) = (markup::parse(&raw_text), markup::parse(prompt.as_str().unwrap()).text);
    let answer = parsed.text.strip_prefix(asked.trim()).unwrap_or(&parsed.text).trim().to_owned();
    let (width, height) = (f64::from(size.0), f64::from(size.1));
    let score = |entity: usize, found: usize| (50 + (seed * 7 + entity * 13 + found * 5) % 50) as f32 / 100.0;
    let grounded = |entity: usize, found: usize, b: &kosmos2::grounding::BoundingBox| v1::GroundedBox {
        fractions: Some(v1::FractionBox { x0: b.x0, y0: b.y0, x1: b.x1, y1: b.y1 }),
        pixels: Some(v1::PixelBox { x0: b.x0 * width, y0: b.y0 * height, x1: b.x1 * width, y1: b.y1 * height }),
        score: Some(score(entity, found)),
        refined: (found == 0).then_some(v1::FractionBox { x0: b.x0 + 0.001, y0: b.y0, x1: b.x1, y1: b.y1 }),
    };
    let entities = parsed.entities.iter().enumerate().map(|(index, entity)| v1::Entity {
        phrase: entity.phrase.clone(),
        span: Some(v1::CodePointSpan { start: entity.span.0 as i32, end: entity.span.1 as i32 }),
        byte_span: Some(v1::ByteSpan { start: entity.span.0 as u32, end: entity.span.1 as u32 }),
        boxes: entity.boxes.iter().enumerate().map(|(found, b)| grounded(index, found, b)).collect(),
        score: Some(score(index, 9)),
    });
    v1::TaskResult {
        task_id: task_id.into(),
        prompt: prompt.as_str().unwrap().into(),
        entities: entities.collect(),
        text: parsed.text,
        answer,
        raw_text,
        finish_reason: v1::FinishReason::Stop.into(),
        prompt_tokens: 70,
        generated_tokens: 20,
        ..v1::TaskResult::default()
    }
}

/// An annotation in the form that the Python script compares with.
fn told(sequence: u64, file: &str, annotation: &ImageAnnotation) -> Value {
    let picture = annotation.picture.as_ref().unwrap();
    let corners = |b: &v1::GroundedBox| {
        let f = b.fractions.as_ref().unwrap();
        json!([f.x0, f.y0, f.x1, f.y1, b.score])
    };
    let entity = |entity: &v1::Entity| {
        let span = entity.span.as_ref().unwrap();
        json!({
            "phrase": entity.phrase, "start": span.start, "end": span.end, "score": entity.score,
            "boxes": entity.boxes.iter().map(corners).collect::<Vec<_>>(),
        })
    };
    let result = |result: &v1::TaskResult| {
        json!({
            "task": result.task_id, "text": result.text,
            "entities": result.entities.iter().map(entity).collect::<Vec<_>>(),
        })
    };
    json!({
        "sequence": sequence, "file": file, "annotation_id": annotation.annotation_id, "labels": annotation.labels,
        "width": picture.width, "height": picture.height, "format": picture.format, "sha256": picture.sha256,
        "results": annotation.results.iter().map(result).collect::<Vec<_>>(),
    })
}

/// Annotations of about the size of real ones: two captions, and where one phrase is.
pub(crate) fn synthetic(count: u64) -> impl Iterator<Item = ImageAnnotation> {
    let scene = &scenes()[1];
    let template = annotation(1, scene, "archive", b"");
    (0..count).map(move |number| {
        let mut annotation = template.clone();
        annotation.annotation_id = sha256_hex(&number.to_le_bytes());
        annotation.job_id = format!("job-{number}");
        if let Some(object) = annotation.picture.as_mut().and_then(|picture| picture.object.as_mut()) {
            object.key = format!("all/scene {number:09}.jpg");
        }
        annotation
    })
}
