//! Decoding of events.

mod cloudevents;
mod envelopes;
mod eventbridge;
mod json;
mod s3;
mod seaweedfs;

use serde_json::Value;
use telemetry::ingest_attributes::IngestReason;

use self::envelopes::Envelope;
use super::headers::EventHeaders;
use super::record::{DecodeError, Decoded, Record};
use super::settings::Format;

/// Decodes a message. The formats nest: CloudEvents contain events of the others, and messages of SQS and SNS those of S3
/// or EventBridge.
///
/// # Errors
/// [`DecodeError`] if it is not JSON, or not in the expected format.
pub fn decode(format: Format, headers: &EventHeaders, body: &[u8]) -> Result<Decoded, DecodeError> {
    let value: Value = serde_json::from_slice(body).map_err(|error| DecodeError(format!("it is not JSON: {error}")))?;
    let mut decoded = match format {
        Format::CloudEvents => cloudevents::decode(headers, &value)?,
        Format::Auto if cloudevents::recognizes(headers, &value) => cloudevents::decode(headers, &value)?,
        format => Decoded { records: plain(format, &value, None)?, trace: None },
    };
    if let Some(trace) = headers.trace() {
        decoded.trace = Some(trace);
    }
    Ok(decoded)
}

/// Decodes what is not CloudEvents, with what is around it. `within`: the envelope from which it came.
fn plain(format: Format, value: &Value, within: Option<Envelope>) -> Result<Vec<Record>, DecodeError> {
    if format == Format::SeaweedFs {
        return Ok(vec![seaweedfs::decode(value)?]);
    }
    if let Some(records) = envelopes::decode(format, value, within)? {
        return Ok(records);
    }
    match format {
        Format::S3 => s3::decode(value),
        Format::EventBridge => Ok(vec![eventbridge::decode(value)?]),
        _ if eventbridge::recognizes(value) => Ok(vec![eventbridge::decode(value)?]),
        _ if seaweedfs::recognizes(value) => Ok(vec![seaweedfs::decode(value)?]),
        _ if s3::recognizes(value) => s3::decode(value),
        _ => Err(DecodeError("its format is not recognized; set the rule's format to see what is missing".to_owned())),
    }
}

/// The record of a part of a message that cannot be read.
fn unreadable(error: DecodeError) -> Record {
    Record::other(IngestReason::Unreadable, error.0)
}

#[cfg(test)]
mod tests;
