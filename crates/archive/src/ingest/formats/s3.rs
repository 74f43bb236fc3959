//! S3 event notifications, as AWS defined them and other stores send them.
//!
//! AWS, versions 2.1 to 2.6: `{"Records": [{"eventName": "ObjectCreated:Put", "s3": {…}}]}`. MinIO and RustFS add
//! `EventName` and `Key`, and write `s3:` before the names. Ceph does not encode keys.

use serde_json::Value;
use telemetry::ingest_attributes::IngestReason;

use super::json::{at, etag, required, size, text, time, version};
use super::unreadable;
use crate::ingest::record::{DecodeError, ObjectRecord, Record};

pub(super) fn recognizes(value: &Value) -> bool {
    value.get("Records").is_some() || is_record(value) || is_test(value) || text(value, &["EventName"]).is_some()
}

/// Decodes a message.
pub(super) fn decode(value: &Value) -> Result<Vec<Record>, DecodeError> {
    if is_test(value) {
        return Ok(vec![Record::other(IngestReason::TestEvent, "s3:TestEvent")]);
    }
    match value.get("Records") {
        // A record that cannot be read does not hold back the others.
        Some(Value::Array(records)) => {
            Ok(records.iter().map(|found| record(found).unwrap_or_else(unreadable)).collect())
        }
        // MinIO sends a message without records when a target is added.
        Some(Value::Null) => Ok(vec![Record::other(IngestReason::TestEvent, "a message without records")]),
        Some(_) => Err(DecodeError("Records is not a list".to_owned())),
        None if is_record(value) => Ok(vec![record(value)?]),
        None => Err(DecodeError("Records is missing".to_owned())),
    }
}

/// A record by itself, as CloudEvents have it.
pub(super) fn is_record(value: &Value) -> bool {
    at(value, &["s3", "object"]).is_some() && text(value, &["eventName"]).is_some()
}

fn is_test(value: &Value) -> bool {
    text(value, &["Event"]).is_some_and(|event| event.ends_with("TestEvent"))
}

pub(super) fn record(value: &Value) -> Result<Record, DecodeError> {
    let event = required(value, &["eventName"])?;
    let event = event.strip_prefix("s3:").unwrap_or(event);
    if event == "TestEvent" {
        return Ok(Record::other(IngestReason::TestEvent, event));
    }
    let object = ["s3", "object"];
    let part = |key: &'static str| [object[0], object[1], key];
    Ok(Record::Object(ObjectRecord {
        event: event.to_owned(),
        bucket: required(value, &["s3", "bucket", "name"])?.to_owned(),
        key: required(value, &part("key"))?.to_owned(),
        is_key_encoded: !text(value, &["eventSource"]).is_some_and(|source| source.starts_with("ceph:")),
        size: size(value, &part("size")),
        etag: etag(value, &part("eTag")),
        version: version(value, &part("versionId")),
        sequencer: text(value, &part("sequencer")).map(str::to_owned),
        time: time(value, &["eventTime"]),
    }))
}
