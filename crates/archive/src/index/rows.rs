//! Annotations as rows.
//!
//! What a database cannot hold is replaced here, the same way for both:
//!
//! - NUL characters become U+FFFD, because PostgreSQL refuses them. Spans keep their meaning.
//! - A box with a corner that is not finite has no geometry, and a score that is not finite is unknown. The rows stay, so
//!   that counts are right.
//! - A number or time that is out of range is unknown.
//! - An annotation id of more than 256 bytes, which no worker makes, is replaced by its SHA-256.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use wire::identity::sha256_hex;
use wire::prost_types::Timestamp;
use wire::v1::{self, Entity, FinishReason, GroundedBox, TaskResult};

use crate::export::item::{Item, Rectangle};

/// The longest annotation id that is stored as it is, in bytes. Unique indexes of PostgreSQL take up to about 2700.
const MAX_ID_BYTES: usize = 256;

/// An annotation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AnnotationRow {
    pub(crate) sequence: i64,
    pub(crate) annotation_id: String,
    pub(crate) dataset: String,
    pub(crate) job_id: String,
    /// A JSON object.
    pub(crate) labels: String,
    pub(crate) bucket: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) etag: Option<String>,
    pub(crate) sha256: String,
    pub(crate) format: String,
    /// Pixels.
    pub(crate) width: i64,
    /// Pixels.
    pub(crate) height: i64,
    /// Bytes of the encoded picture.
    pub(crate) size_bytes: Option<i64>,
    pub(crate) model: String,
    pub(crate) model_revision: Option<String>,
    pub(crate) model_digest: String,
    pub(crate) finished_at: Option<OffsetDateTime>,
    pub(crate) results: Vec<ResultRow>,
}

/// The result of a task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ResultRow {
    pub(crate) task: String,
    pub(crate) prompt: String,
    pub(crate) text: String,
    pub(crate) answer: String,
    /// `stop`, `length` or `scored`.
    pub(crate) finish_reason: Option<&'static str>,
    pub(crate) prompt_tokens: i64,
    pub(crate) generated_tokens: i64,
    pub(crate) loss: Option<f32>,
    pub(crate) entities: Vec<EntityRow>,
}

/// A phrase.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EntityRow {
    pub(crate) phrase: String,
    /// First code point of the phrase in the text.
    pub(crate) span_start: Option<i32>,
    /// One past the last code point.
    pub(crate) span_end: Option<i32>,
    pub(crate) score: Option<f32>,
    pub(crate) boxes: Vec<BoxRow>,
}

/// A box.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BoxRow {
    /// In pixels; `None` if a corner is missing or not finite.
    pub(crate) pixels: Option<Rectangle>,
    pub(crate) score: Option<f32>,
}

/// Numbers of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) annotations: u64,
    pub(crate) results: u64,
    pub(crate) entities: u64,
    pub(crate) boxes: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, row: &AnnotationRow) {
        self.annotations += 1;
        self.results += row.results.len() as u64;
        for entity in row.results.iter().flat_map(|result| &result.entities) {
            self.entities += 1;
            self.boxes += entity.boxes.len() as u64;
        }
    }
}

impl From<Item> for AnnotationRow {
    fn from(item: Item) -> Self {
        let (width, height) = item.size();
        let sequence = i64::try_from(item.sequence).unwrap_or(i64::MAX);
        let v1::ImageAnnotation {
            annotation_id, dataset, job_id, labels, picture, model, results, finished_at, ..
        } = item.annotation;
        let picture = picture.unwrap_or_default();
        let (model, object) = (model.unwrap_or_default(), picture.object);
        let (bucket, key) = object.as_ref().map(|object| (object.bucket.clone(), object.key.clone())).unzip();
        let (version, etag) = object.map(|object| (object.version_id, object.etag)).unwrap_or_default();
        Self {
            sequence,
            annotation_id: identity(annotation_id),
            dataset: storable(dataset),
            job_id: storable(job_id),
            labels: labels_json(labels),
            bucket: bucket.map(storable),
            key: key.map(storable),
            version: version.map(storable),
            etag: etag.map(storable),
            sha256: storable(picture.sha256),
            format: storable(picture.format),
            width: width.into(),
            height: height.into(),
            size_bytes: i64::try_from(picture.size_bytes).ok(),
            model: storable(model.name),
            model_revision: model.revision.map(storable),
            model_digest: storable(model.digest),
            finished_at: finished_at.and_then(time_of),
            results: results.into_iter().map(|result| result_row(result, width.into(), height.into())).collect(),
        }
    }
}

fn result_row(result: TaskResult, width: f64, height: f64) -> ResultRow {
    let finish_reason = match result.finish_reason() {
        FinishReason::Unspecified => None,
        FinishReason::Stop => Some("stop"),
        FinishReason::Length => Some("length"),
        FinishReason::Scored => Some("scored"),
    };
    let entity = |entity: Entity| EntityRow {
        phrase: storable(entity.phrase),
        span_start: entity.span.as_ref().map(|span| span.start),
        span_end: entity.span.as_ref().map(|span| span.end),
        score: finite(entity.score),
        boxes: entity.boxes.iter().map(|found| box_row(found, width, height)).collect(),
    };
    ResultRow {
        task: storable(result.task_id),
        prompt: storable(result.prompt),
        text: storable(result.text),
        answer: storable(result.answer),
        finish_reason,
        prompt_tokens: result.prompt_tokens.into(),
        generated_tokens: result.generated_tokens.into(),
        loss: finite(result.loss),
        entities: result.entities.into_iter().map(entity).collect(),
    }
}

fn box_row(found: &GroundedBox, width: f64, height: f64) -> BoxRow {
    // Checked first: the smaller one of NaN and a number is the number.
    let has_corners = found.fractions.as_ref().is_some_and(|b| [b.x0, b.y0, b.x1, b.y1].iter().all(|x| x.is_finite()));
    let pixels = has_corners.then(|| Rectangle::of(found).scaled(width, height));
    let pixels = pixels.filter(|r| [r.x0, r.y0, r.x1, r.y1].iter().all(|x| x.is_finite()));
    BoxRow { pixels, score: finite(found.score) }
}

fn finite(number: Option<f32>) -> Option<f32> {
    number.filter(|number| number.is_finite())
}

/// The text without NUL characters.
fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

fn identity(id: String) -> String {
    if id.len() > MAX_ID_BYTES { sha256_hex(id.as_bytes()) } else { storable(id) }
}

fn labels_json(labels: std::collections::HashMap<String, String>) -> String {
    let labels: BTreeMap<_, _> = labels.into_iter().map(|(name, value)| (storable(name), storable(value))).collect();
    // Cannot fail: the keys are strings.
    serde_json::to_string(&labels).unwrap_or_else(|_| "{}".to_owned())
}

fn time_of(time: Timestamp) -> Option<OffsetDateTime> {
    let nanoseconds = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()
}

#[cfg(test)]
mod tests {
    use wire::v1::{FractionBox, ImageAnnotation, PictureFacts};

    use super::*;

    fn row(annotation: ImageAnnotation) -> AnnotationRow {
        Item { sequence: 7, annotation, picture: None, categories: Vec::new() }.into()
    }

    #[test]
    fn boxes_are_pixels_with_ordered_corners_and_without_what_is_not_finite() {
        let corners = |x0, x1| Some(FractionBox { x0, y0: 0.0, x1, y1: 0.5 });
        let boxed = |fractions, score| GroundedBox { fractions, score, ..GroundedBox::default() };
        let boxes = vec![
            boxed(corners(0.75, 0.25), Some(0.5)),
            boxed(corners(f64::NAN, 0.25), Some(f32::NAN)),
            boxed(corners(0.0, f64::INFINITY), Some(f32::INFINITY)),
            boxed(None, None),
        ];
        let entity = Entity { phrase: "a\0fox".into(), boxes, score: Some(f32::NAN), ..Entity::default() };
        let result = TaskResult { entities: vec![entity], finish_reason: 99, ..TaskResult::default() };
        let annotation = ImageAnnotation {
            annotation_id: "i".repeat(3000),
            labels: [("a".to_owned(), "\0".to_owned())].into(),
            picture: Some(PictureFacts { width: 200, height: 100, size_bytes: u64::MAX, ..PictureFacts::default() }),
            results: vec![result],
            finished_at: Some(Timestamp { seconds: i64::MAX, nanos: 0 }),
            ..ImageAnnotation::default()
        };
        let row = row(annotation);
        let none = BoxRow { pixels: None, score: None };
        let pixels = Some(Rectangle { x0: 50.0, y0: 0.0, x1: 150.0, y1: 50.0 });
        let entity = &row.results[0].entities[0];
        assert_eq!(entity.boxes, [BoxRow { pixels, score: Some(0.5) }, none, none, none]);
        assert_eq!((entity.phrase.as_str(), entity.score), ("a\u{fffd}fox", None));
        assert_eq!((row.annotation_id.len(), row.size_bytes, row.finished_at), (64, None, None));
        assert_eq!((row.labels.as_str(), row.results[0].finish_reason), ("{\"a\":\"\u{fffd}\"}", None));
        let mut counts = Counts::default();
        counts.add(&row);
        assert_eq!(counts, Counts { annotations: 1, results: 1, entities: 1, boxes: 4 });
    }
}
