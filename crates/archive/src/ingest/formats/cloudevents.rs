//! CloudEvents 1.0, structured, in batches, or with attributes in `ce-` headers. The data is an event of another format:
//! S3 records, one record, an event of EventBridge or its detail, or a message of SeaweedFS.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::json::{parse_time, text, time};
use super::{eventbridge, plain, s3, unreadable};
use crate::ingest::headers::EventHeaders;
use crate::ingest::record::{DecodeError, Decoded, Record};
use crate::ingest::settings::Format;

pub(super) fn recognizes(headers: &EventHeaders, value: &Value) -> bool {
    let is_structured = |value: &Value| text(value, &["specversion"]).is_some();
    headers.attribute("specversion").is_some()
        || is_structured(value)
        || value.as_array().is_some_and(|events| !events.is_empty() && events.iter().all(is_structured))
}

pub(super) fn decode(headers: &EventHeaders, value: &Value) -> Result<Decoded, DecodeError> {
    if let Some(version) = headers.attribute("specversion") {
        check_version(version)?;
        let kind = headers.attribute("type").unwrap_or_default();
        let records = data(kind, headers.attribute("time").and_then(parse_time), value)?;
        return Ok(Decoded { records, trace: None });
    }
    match value.as_array() {
        // An event that cannot be read does not hold back the others.
        Some(events) => {
            let each = events.iter().map(|event| structured(event).unwrap_or_else(|error| vec![unreadable(error)]));
            Ok(Decoded { records: each.flatten().collect(), trace: None })
        }
        None => {
            let trace = text(value, &["traceparent"])
                .map(|parent| (parent.to_owned(), text(value, &["tracestate"]).map(str::to_owned)));
            Ok(Decoded { records: structured(value)?, trace })
        }
    }
}

/// Decodes an event whose attributes are beside its data.
fn structured(event: &Value) -> Result<Vec<Record>, DecodeError> {
    check_version(text(event, &["specversion"]).unwrap_or_default())?;
    let (kind, time) = (text(event, &["type"]).unwrap_or_default(), time(event, &["time"]));
    match (event.get("data"), text(event, &["data_base64"])) {
        // Some senders put JSON into a string.
        (Some(Value::String(json)), _) => data(kind, time, &parse(json.as_bytes())?),
        (Some(value), _) => data(kind, time, value),
        (None, Some(encoded)) => {
            let bytes = BASE64_STANDARD.decode(encoded);
            data(kind, time, &parse(&bytes.map_err(|_| DecodeError("data_base64 is not Base64".to_owned()))?)?)
        }
        (None, None) => Err(DecodeError("the CloudEvent has no data".to_owned())),
    }
}

fn check_version(version: &str) -> Result<(), DecodeError> {
    if version.starts_with("1.") {
        return Ok(());
    }
    Err(DecodeError(format!("it is not a CloudEvent of version 1.0: specversion is {version:?}")))
}

fn parse(json: &[u8]) -> Result<Value, DecodeError> {
    serde_json::from_slice(json)
        .map_err(|error| DecodeError(format!("the data of the CloudEvent is not JSON: {error}")))
}

fn data(kind: &str, time: Option<time::OffsetDateTime>, value: &Value) -> Result<Vec<Record>, DecodeError> {
    let mut records = if s3::is_record(value) {
        vec![s3::record(value)?]
    } else if eventbridge::is_detail(value) {
        vec![eventbridge::decode_detail(&detail_type(kind), value, time)?]
    } else {
        plain(Format::CloudEvents, value, None)?
    };
    for record in &mut records {
        if let Record::Object(object) = record {
            object.time = object.time.or(time);
        }
    }
    Ok(records)
}

/// The `detail-type` of EventBridge in the type of a CloudEvent, such as `aws.s3.object.created` or
/// `com.amazonaws.s3.ObjectCreated:Put`.
fn detail_type(kind: &str) -> String {
    let letters: String = kind.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let known = ["Object Created", "Object Deleted", "Object Restore Completed"];
    let found = known.into_iter().find(|known| letters.contains(&known.replace(' ', "").to_lowercase()));
    found.unwrap_or(kind).to_owned()
}
