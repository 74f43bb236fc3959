//! Decoding of events.

mod cloudevents;
mod eventbridge;
mod json;
mod s3;
mod seaweedfs;

use serde_json::Value;
use telemetry::ingest_attributes::IngestReason;

use super::headers::EventHeaders;
use super::record::{DecodeError, Decoded, Record};
use super::settings::Format;

/// Decodes a message. The formats nest: CloudEvents contain events of the others, and SNS those of S3 or EventBridge.
///
/// # Errors
/// [`DecodeError`] if it is not JSON, or not in the expected format.
pub fn decode(format: Format, headers: &EventHeaders, body: &[u8]) -> Result<Decoded, DecodeError> {
    let value: Value = serde_json::from_slice(body).map_err(|error| DecodeError(format!("it is not JSON: {error}")))?;
    let mut decoded = match format {
        Format::CloudEvents => cloudevents::decode(headers, &value)?,
        Format::Auto if cloudevents::recognizes(headers, &value) => cloudevents::decode(headers, &value)?,
        format => Decoded { records: plain(format, &value)?, trace: None },
    };
    if let Some(trace) = headers.trace() {
        decoded.trace = Some(trace);
    }
    Ok(decoded)
}

/// Decodes what is not CloudEvents.
fn plain(format: Format, value: &Value) -> Result<Vec<Record>, DecodeError> {
    match format {
        Format::S3 => s3::decode(value, &|inner| plain(Format::S3, inner)),
        Format::EventBridge => match s3::sns_message(value)? {
            Some(s3::Sns::Event(inner)) => plain(Format::EventBridge, &inner),
            Some(s3::Sns::Other(record)) => Ok(vec![record]),
            None => Ok(vec![eventbridge::decode(value)?]),
        },
        Format::SeaweedFs => Ok(vec![seaweedfs::decode(value)?]),
        Format::Auto | Format::CloudEvents => recognized(value),
    }
}

fn recognized(value: &Value) -> Result<Vec<Record>, DecodeError> {
    if eventbridge::recognizes(value) {
        Ok(vec![eventbridge::decode(value)?])
    } else if seaweedfs::recognizes(value) {
        Ok(vec![seaweedfs::decode(value)?])
    } else if s3::recognizes(value) {
        s3::decode(value, &recognized)
    } else {
        Err(DecodeError("it is no event of a known format: set the rule's format to see what is missing".to_owned()))
    }
}

/// The record of a part of a message that cannot be read.
fn unreadable(error: DecodeError) -> Record {
    Record::other(IngestReason::Unreadable, error.0)
}

#[cfg(test)]
mod tests;
