//! Failures as text and as JSON.

use archive::failures::Failure;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use wire::Message;
use wire::subjects::dataset_token;
use wire::v1::{ImageJob, S3Object, Task, image_job, task};

use crate::stderr::escape_control;

/// A line for one failure.
pub(super) fn line(failure: &Failure) -> String {
    let record = &failure.record;
    escape_control(&format!(
        "{} {} {} {} {}: {}",
        failure.sequence,
        time(failure.published),
        dataset(failure),
        record.reason().token(),
        failure.address().or_else(|| record.job_id.clone()).unwrap_or_else(|| "no picture".to_owned()),
        record.message
    ))
}

/// What a list tells of one failure.
pub(super) fn summary(failure: &Failure) -> Value {
    let record = &failure.record;
    json!({
        "sequence": failure.sequence, "time": time(failure.published), "dataset": dataset(failure),
        "reason": record.reason().token(), "job_id": record.job_id, "address": failure.address(),
        "bucket": record.bucket, "key": record.key, "version_id": record.version_id, "message": record.message,
    })
}

/// Everything about one failure, with the fields of [`summary`].
pub(super) fn everything(failure: &Failure) -> Value {
    let record = &failure.record;
    let mut value = summary(failure);
    let failed_at = record.failed_at.and_then(|at| {
        let seconds = OffsetDateTime::from_unix_timestamp(at.seconds).ok()?;
        Some(time(seconds + time::Duration::nanoseconds(at.nanos.into())))
    });
    let more = json!({
        "failure_id": failure.id, "subject": record.subject, "deliveries": record.deliveries,
        "job_sequence": record.stream_sequence, "job_sha256": record.job_sha256, "job_omitted": record.job_omitted,
        "job_bytes": record.job.len(), "failed_at": failed_at,
        "worker": record.worker.as_ref().map(|worker| json!({"id": worker.worker_id, "version": worker.version})),
        "job": job(failure),
    });
    if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
        value.extend(more);
    }
    value
}

/// Everything about one failure, a line for each field.
pub(super) fn lines(failure: &Failure) -> String {
    let mut text = String::new();
    if let Value::Object(fields) = everything(failure) {
        for (name, value) in fields {
            let value = match value {
                Value::Null => "unknown".to_owned(),
                Value::String(value) => value,
                other => other.to_string(),
            };
            text += &format!("{name}: {}\n", escape_control(&value));
        }
    }
    text
}

/// The job as far as it can be read; null if it is left out or is no job.
fn job(failure: &Failure) -> Value {
    let record = &failure.record;
    if record.job_omitted {
        return Value::Null;
    }
    let Ok(job) = ImageJob::decode(record.job.clone()) else { return Value::Null };
    let picture = match &job.source {
        Some(image_job::Source::S3(S3Object { bucket, key, version_id, etag })) => {
            json!({"bucket": bucket, "key": key, "version_id": version_id, "etag": etag})
        }
        Some(image_job::Source::Inline(bytes)) => json!({"inline_bytes": bytes.len()}),
        None => Value::Null,
    };
    json!({
        "job_id": job.job_id, "dataset": job.dataset, "picture": picture, "labels": job.labels,
        "tasks": job.tasks.iter().map(task_json).collect::<Vec<_>>(),
        "options": job.options.map(|options| format!("{options:?}")),
    })
}

fn task_json(task: &Task) -> Value {
    let (kind, text) = match &task.kind {
        None => ("none", None),
        Some(task::Kind::BriefCaption(_)) => ("brief_caption", None),
        Some(task::Kind::DetailedCaption(_)) => ("detailed_caption", None),
        Some(task::Kind::Question(task)) => ("question", Some(&task.question)),
        Some(task::Kind::PhraseGrounding(task)) => ("phrase_grounding", Some(&task.phrase)),
        Some(task::Kind::ReferringExpressionComprehension(task)) => {
            ("referring_expression_comprehension", Some(&task.expression))
        }
        Some(task::Kind::ReferringExpressionGeneration(_)) => ("referring_expression_generation", None),
        Some(task::Kind::Raw(task)) => ("raw", Some(&task.text)),
        Some(task::Kind::TextScoring(task)) => ("text_scoring", Some(&task.prompt)),
    };
    json!({"task_id": task.task_id, "kind": kind, "text": text})
}

fn dataset(failure: &Failure) -> &str {
    dataset_token(&failure.record.subject).unwrap_or("unknown")
}

pub(in crate::commands) fn time(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_else(|_| time.unix_timestamp().to_string())
}
