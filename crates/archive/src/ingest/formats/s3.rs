//! S3 event notifications, as AWS defined them and other stores send them, and the messages of SNS around them.
//!
//! AWS, versions 2.1 to 2.6: `{"Records": [{"eventName": "ObjectCreated:Put", "s3": {…}}]}`. MinIO and RustFS add
//! `EventName` and `Key`, and write `s3:` before the names. Ceph does not encode keys.

use serde_json::Value;
use telemetry::ingest_attributes::IngestReason;

use super::json::{at, etag, required, size, text, time, version};
use super::unreadable;
use crate::ingest::record::{DecodeError, ObjectRecord, Record};

/// A message of SNS.
pub(super) enum Sns {
    /// A notification with this event.
    Event(Value),
    /// Another message.
    Other(Record),
}

pub(super) fn recognizes(value: &Value) -> bool {
    value.get("Records").is_some()
        || is_record(value)
        || is_test(value)
        || text(value, &["EventName"]).is_some()
        || is_sns(value)
}

/// Decodes a message. `inner` decodes the event in a notification of SNS.
pub(super) fn decode(
    value: &Value,
    inner: &dyn Fn(&Value) -> Result<Vec<Record>, DecodeError>,
) -> Result<Vec<Record>, DecodeError> {
    match sns_message(value)? {
        Some(Sns::Event(event)) if is_sns(&event) => {
            return Err(DecodeError("a message of SNS contains another one".to_owned()));
        }
        Some(Sns::Event(event)) => return inner(&event),
        Some(Sns::Other(record)) => return Ok(vec![record]),
        None => {}
    }
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

fn is_sns(value: &Value) -> bool {
    text(value, &["TopicArn"]).is_some() && text(value, &["Type"]).is_some()
}

pub(super) fn sns_message(value: &Value) -> Result<Option<Sns>, DecodeError> {
    if !is_sns(value) {
        return Ok(None);
    }
    let message = match required(value, &["Type"])? {
        "Notification" => {
            let event = serde_json::from_str(required(value, &["Message"])?);
            Sns::Event(event.map_err(|error| DecodeError(format!("the Message of SNS is not JSON: {error}")))?)
        }
        kind => {
            let address = text(value, &["SubscribeURL"]).unwrap_or("no address");
            let topic = required(value, &["TopicArn"])?;
            Sns::Other(Record::other(IngestReason::Confirmation, format!("{kind} of {topic}: {address}")))
        }
    };
    Ok(Some(message))
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
