//! What AWS puts around events: lists of messages, messages of SQS, and messages of SNS.
//!
//! EventBridge Pipes sends a message of SQS as it is, or several as a list; Lambda's form of them is
//! `{"Records": [{"eventSource": "aws:sqs", "body": "…"}]}`. The body is an event, or a message of SNS around one.

use serde_json::Value;
use telemetry::ingest_attributes::IngestReason;

use super::json::{required, text};
use super::{plain, unreadable};
use crate::ingest::record::{DecodeError, Record};
use crate::ingest::settings::Format;

/// The envelopes, from the outermost to the innermost. Each contains only those after it, which bounds the nesting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Envelope {
    List,
    Sqs,
    Sns,
}

impl Envelope {
    /// Goes into this envelope from within another one.
    fn enter(self, within: Option<Self>) -> Result<Option<Self>, DecodeError> {
        match within {
            Some(outer) if outer >= self => {
                let what = if outer == self { "another one" } else { self.name() };
                Err(DecodeError(format!("{} contains {what}", outer.name())))
            }
            _ => Ok(Some(self)),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::List => "a list",
            Self::Sqs => "a message of SQS",
            Self::Sns => "a message of SNS",
        }
    }
}

/// Decodes the events in an envelope; `None` if the message has none around it.
pub(super) fn decode(
    format: Format,
    value: &Value,
    within: Option<Envelope>,
) -> Result<Option<Vec<Record>>, DecodeError> {
    if let Some(messages) = value.as_array().filter(|messages| !messages.is_empty()) {
        let within = Envelope::List.enter(within)?;
        return each(messages, |message| plain(format, message, within)).map(Some);
    }
    if is_sqs(value) {
        let within = Envelope::Sqs.enter(within)?;
        return sqs(format, value, within).map(Some);
    }
    let records = value.get("Records").and_then(Value::as_array);
    if let Some(messages) = records.filter(|records| !records.is_empty() && records.iter().all(is_sqs)) {
        let within = Envelope::Sqs.enter(within)?;
        return each(messages, |message| sqs(format, message, within)).map(Some);
    }
    if is_sns(value) {
        let within = Envelope::Sns.enter(within)?;
        return sns(format, value, within).map(Some);
    }
    Ok(None)
}

/// Decodes several messages. One that cannot be read does not hold back the others.
fn each(
    messages: &[Value],
    decode: impl Fn(&Value) -> Result<Vec<Record>, DecodeError>,
) -> Result<Vec<Record>, DecodeError> {
    let decoded: Vec<_> = messages.iter().map(decode).collect();
    if decoded.iter().all(Result::is_err) {
        return decoded.into_iter().find_map(Result::err).map_or(Ok(Vec::new()), Err);
    }
    Ok(decoded.into_iter().flat_map(|records| records.unwrap_or_else(|error| vec![unreadable(error)])).collect())
}

fn is_sqs(value: &Value) -> bool {
    text(value, &["eventSource"]) == Some("aws:sqs")
}

fn sqs(format: Format, value: &Value, within: Option<Envelope>) -> Result<Vec<Record>, DecodeError> {
    match value.get("body") {
        Some(Value::String(body)) => {
            let event: Value = serde_json::from_str(body)
                .map_err(|error| DecodeError(format!("the body of the SQS message is not JSON: {error}")))?;
            plain(format, &event, within)
        }
        // The input templates of Pipes parse bodies that are JSON.
        Some(event) => plain(format, event, within),
        None => Err(DecodeError("body is missing".to_owned())),
    }
}

fn is_sns(value: &Value) -> bool {
    text(value, &["TopicArn"]).is_some() && text(value, &["Type"]).is_some()
}

fn sns(format: Format, value: &Value, within: Option<Envelope>) -> Result<Vec<Record>, DecodeError> {
    match required(value, &["Type"])? {
        "Notification" => {
            let event: Value = serde_json::from_str(required(value, &["Message"])?)
                .map_err(|error| DecodeError(format!("the Message of SNS is not JSON: {error}")))?;
            plain(format, &event, within)
        }
        kind => {
            let address = text(value, &["SubscribeURL"]).unwrap_or("no address");
            let topic = required(value, &["TopicArn"])?;
            Ok(vec![Record::other(IngestReason::Confirmation, format!("{kind} of {topic}: {address}"))])
        }
    }
}
