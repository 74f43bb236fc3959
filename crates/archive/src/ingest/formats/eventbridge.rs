//! Events of Amazon EventBridge. Keys are plain, and the reason of an event is the name of the request.

use serde_json::Value;
use telemetry::ingest_attributes::IngestReason;

use super::json::{at, etag, required, size, text, time, version};
use crate::ingest::record::{DecodeError, ObjectRecord, Record};

pub(super) fn recognizes(value: &Value) -> bool {
    text(value, &["detail-type"]).is_some() && value.get("detail").is_some()
}

pub(super) fn decode(value: &Value) -> Result<Record, DecodeError> {
    let kind = required(value, &["detail-type"])?;
    let detail = at(value, &["detail"]).ok_or_else(|| DecodeError("detail is missing".to_owned()))?;
    decode_detail(kind, detail, time(value, &["time"]))
}

/// Whether a value is what events have in `detail`.
pub(super) fn is_detail(value: &Value) -> bool {
    at(value, &["object", "key"]).is_some() && at(value, &["bucket", "name"]).is_some()
}

pub(super) fn decode_detail(
    kind: &str,
    detail: &Value,
    time: Option<time::OffsetDateTime>,
) -> Result<Record, DecodeError> {
    let Some(event) = event_name(kind, text(detail, &["reason"])) else {
        return Ok(Record::other(IngestReason::EventName, kind));
    };
    Ok(Record::Object(ObjectRecord {
        event,
        bucket: required(detail, &["bucket", "name"])?.to_owned(),
        key: required(detail, &["object", "key"])?.to_owned(),
        is_key_encoded: false,
        size: size(detail, &["object", "size"]),
        etag: etag(detail, &["object", "etag"]),
        version: version(detail, &["object", "version-id"]),
        sequencer: text(detail, &["object", "sequencer"]).map(str::to_owned),
        time,
    }))
}

/// The name that S3's own notifications have for an event; `None` if it is not about the content of an object.
fn event_name(kind: &str, reason: Option<&str>) -> Option<String> {
    let name = match (kind, reason) {
        ("Object Created", Some("PutObject")) => "ObjectCreated:Put",
        ("Object Created", Some("POST Object")) => "ObjectCreated:Post",
        ("Object Created", Some("CopyObject")) => "ObjectCreated:Copy",
        ("Object Created", Some("CompleteMultipartUpload")) => "ObjectCreated:CompleteMultipartUpload",
        ("Object Created", _) => "ObjectCreated:Other",
        ("Object Deleted", _) => "ObjectRemoved:Delete",
        ("Object Restore Completed", _) => "ObjectRestore:Completed",
        ("Object Restore Initiated", _) => "ObjectRestore:Post",
        ("Object Restore Expired", _) => "ObjectRestore:Delete",
        _ => return None,
    };
    Some(name.to_owned())
}
