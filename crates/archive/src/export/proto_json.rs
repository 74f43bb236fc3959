//! Annotations in the JSON form of protobuf: field names in lowerCamelCase, 64-bit integers as strings, fields with their
//! default value left out.
//! Source: <https://protobuf.dev/programming-guides/json/>.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use wire::prost_types;
use wire::v1;

/// A serializable view of an annotation.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Annotation<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    annotation_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    job_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    dataset: &'a str,
    // In the order of their names, so that equal annotations have equal bytes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<Picture<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<Model<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    results: Vec<TaskResult<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<Worker<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Picture<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    format: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    width: u32,
    #[serde(skip_serializing_if = "is_zero")]
    height: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    sha256: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    orientation: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    orientation_applied: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<Object<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    bucket: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Model<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    digest: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TaskResult<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    task_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    prompt: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    text: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    answer: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    raw_text: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entities: Vec<Entity<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<FinishReason>,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_tokens: u32,
    #[serde(skip_serializing_if = "is_zero")]
    generated_tokens: u32,
    #[serde(skip_serializing_if = "<[u32]>::is_empty")]
    token_ids: &'a [u32],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<Float>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<Float>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entity<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    phrase: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    span: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    byte_span: Option<Span>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    boxes: Vec<GroundedBox>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<Float>,
}

#[derive(Serialize)]
struct Span {
    #[serde(skip_serializing_if = "is_zero")]
    start: i64,
    #[serde(skip_serializing_if = "is_zero")]
    end: i64,
}

#[derive(Serialize)]
struct GroundedBox {
    #[serde(skip_serializing_if = "Option::is_none")]
    fractions: Option<Corners>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pixels: Option<Corners>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<Float>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refined: Option<Corners>,
}

#[derive(Serialize)]
struct Corners {
    #[serde(skip_serializing_if = "is_zero")]
    x0: Double,
    #[serde(skip_serializing_if = "is_zero")]
    y0: Double,
    #[serde(skip_serializing_if = "is_zero")]
    x1: Double,
    #[serde(skip_serializing_if = "is_zero")]
    y1: Double,
}

#[derive(Serialize)]
struct Timings {
    #[serde(skip_serializing_if = "Option::is_none")]
    intake: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fetch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefill: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Worker<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    worker_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
}

/// The name of a known value, or the number of an unknown one.
enum FinishReason {
    Known(&'static str),
    Unknown(i32),
}

impl Serialize for FinishReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(name) => serializer.serialize_str(name),
            Self::Unknown(number) => serializer.serialize_i32(*number),
        }
    }
}

/// Numbers that JSON does not have are strings.
macro_rules! float {
    ($name:ident, $float:ty, $serialize:ident) => {
        #[derive(PartialEq, Default)]
        struct $name($float);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self.0 {
                    number if number.is_finite() => serializer.$serialize(number),
                    number if number.is_nan() => serializer.serialize_str("NaN"),
                    number if number > 0.0 => serializer.serialize_str("Infinity"),
                    _ => serializer.serialize_str("-Infinity"),
                }
            }
        }
    };
}
float!(Float, f32, serialize_f32);
float!(Double, f64, serialize_f64);

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl<'a> From<&'a v1::ImageAnnotation> for Annotation<'a> {
    fn from(from: &'a v1::ImageAnnotation) -> Self {
        Self {
            annotation_id: &from.annotation_id,
            job_id: &from.job_id,
            dataset: &from.dataset,
            labels: from.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            picture: from.picture.as_ref().map(picture),
            model: from.model.as_ref().map(|model| Model {
                name: &model.name,
                revision: model.revision.as_deref(),
                digest: &model.digest,
            }),
            results: from.results.iter().map(result).collect(),
            timings: from.timings.as_ref().map(timings),
            worker: from
                .worker
                .as_ref()
                .map(|worker| Worker { worker_id: &worker.worker_id, version: &worker.version }),
            finished_at: from.finished_at.as_ref().map(ToString::to_string),
        }
    }
}

fn picture(from: &v1::PictureFacts) -> Picture<'_> {
    Picture {
        format: &from.format,
        width: from.width,
        height: from.height,
        size_bytes: (from.size_bytes != 0).then(|| from.size_bytes.to_string()),
        sha256: &from.sha256,
        orientation: from.orientation,
        orientation_applied: from.orientation_applied,
        object: from.object.as_ref().map(|object| Object {
            bucket: &object.bucket,
            key: &object.key,
            etag: object.etag.as_deref(),
            version_id: object.version_id.as_deref(),
        }),
    }
}

fn result(from: &v1::TaskResult) -> TaskResult<'_> {
    TaskResult {
        task_id: &from.task_id,
        prompt: &from.prompt,
        text: &from.text,
        answer: &from.answer,
        raw_text: &from.raw_text,
        entities: from.entities.iter().map(entity).collect(),
        finish_reason: (from.finish_reason != 0).then(|| match v1::FinishReason::try_from(from.finish_reason) {
            Ok(known) => FinishReason::Known(known.as_str_name()),
            Err(_) => FinishReason::Unknown(from.finish_reason),
        }),
        prompt_tokens: from.prompt_tokens,
        generated_tokens: from.generated_tokens,
        token_ids: &from.token_ids,
        logprobs: from.logprobs.iter().copied().map(Float).collect(),
        loss: from.loss.map(Float),
    }
}

fn entity(from: &v1::Entity) -> Entity<'_> {
    Entity {
        phrase: &from.phrase,
        span: from.span.as_ref().map(|span| Span { start: span.start.into(), end: span.end.into() }),
        byte_span: from.byte_span.as_ref().map(|span| Span { start: span.start.into(), end: span.end.into() }),
        boxes: from.boxes.iter().map(grounded_box).collect(),
        score: from.score.map(Float),
    }
}

fn grounded_box(from: &v1::GroundedBox) -> GroundedBox {
    let corners = |x0, y0, x1, y1| Corners { x0: Double(x0), y0: Double(y0), x1: Double(x1), y1: Double(y1) };
    let fractions = |b: &v1::FractionBox| corners(b.x0, b.y0, b.x1, b.y1);
    GroundedBox {
        fractions: from.fractions.as_ref().map(fractions),
        pixels: from.pixels.as_ref().map(|b| corners(b.x0, b.y0, b.x1, b.y1)),
        score: from.score.map(Float),
        refined: from.refined.as_ref().map(fractions),
    }
}

fn timings(from: &v1::StageTimings) -> Timings {
    let text = |duration: &Option<prost_types::Duration>| duration.as_ref().map(ToString::to_string);
    Timings {
        intake: text(&from.intake),
        fetch: text(&from.fetch),
        decode: text(&from.decode),
        queue: text(&from.queue),
        vision: text(&from.vision),
        prefill: text(&from.prefill),
        generate: text(&from.generate),
        total: text(&from.total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations_have_the_form_of_protobuf() {
        let time = |seconds, nanos| prost_types::Timestamp { seconds, nanos }.to_string();
        assert_eq!(time(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_782_400, 250_000_000), "2000-02-29T00:00:00.250Z");
        assert_eq!(time(1_796_027_696, 1), "2026-11-30T08:34:56.000000001Z");
        assert_eq!(time(-1, 0), "1969-12-31T23:59:59Z");
        let duration = |seconds, nanos| prost_types::Duration { seconds, nanos }.to_string();
        assert_eq!(duration(1, 500_000_000), "1.500s");
        assert_eq!(duration(0, 1000), "0.000001s");
        assert_eq!(duration(0, -5), "-0.000000005s");
    }

    #[test]
    fn numbers_that_json_does_not_have_are_strings_and_defaults_are_left_out() {
        let result = v1::TaskResult {
            task_id: "t".into(),
            answer: "a fox".into(),
            finish_reason: 3,
            logprobs: vec![-0.1, f32::NEG_INFINITY, f32::NAN],
            loss: Some(0.0),
            ..v1::TaskResult::default()
        };
        let annotation = v1::ImageAnnotation {
            results: vec![result],
            picture: Some(v1::PictureFacts { size_bytes: 5, ..v1::PictureFacts::default() }),
            ..v1::ImageAnnotation::default()
        };
        assert_eq!(
            serde_json::to_string(&Annotation::from(&annotation)).unwrap(),
            r#"{"picture":{"sizeBytes":"5"},"results":[{"taskId":"t","answer":"a fox","finishReason":"FINISH_REASON_SCORED","logprobs":[-0.1,"-Infinity","NaN"],"loss":0.0}]}"#
        );
    }
}
