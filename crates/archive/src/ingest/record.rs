//! What the events of all formats say.

use telemetry::ingest_attributes::IngestReason;
use time::OffsetDateTime;

use super::settings::KeyEncoding;

/// A record of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Something happened to an object.
    Object(ObjectRecord),
    /// A message about something else.
    Other {
        /// What it is about.
        reason: IngestReason,
        /// For the log.
        what: String,
    },
}

/// Something happened to an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectRecord {
    /// The event's name as S3 has it, without `s3:`, such as `ObjectCreated:Put`.
    pub event: String,
    /// The bucket.
    pub bucket: String,
    /// The key, as it is written in the event.
    pub key: String,
    /// Whether the sender URL-encodes keys.
    pub is_key_encoded: bool,
    /// The object's size in bytes.
    pub size: Option<u64>,
    /// The ETag without quotes.
    pub etag: Option<String>,
    /// The version, in a bucket with versions.
    pub version: Option<String>,
    /// Tells states of an object apart that have neither version nor ETag.
    pub sequencer: Option<String>,
    /// When it happened.
    pub time: Option<OffsetDateTime>,
}

/// The records of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoded {
    /// In the order of the message.
    pub records: Vec<Record>,
    /// The trace context in the message, if it has one: `traceparent` and `tracestate`.
    pub trace: Option<(String, Option<String>)>,
}

/// A message that is not in the expected format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// A key that cannot be decoded, or that no object can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub(super) &'static str);

impl Record {
    pub(super) fn other(reason: IngestReason, what: impl Into<String>) -> Self {
        Self::Other { reason, what: what.into() }
    }
}

/// Decodes a key.
///
/// # Errors
/// [`KeyError`] if the encoding is invalid, or the decoded key is not UTF-8.
pub fn decode_key(key: &str, encoding: KeyEncoding) -> Result<String, KeyError> {
    if encoding == KeyEncoding::Raw {
        return Ok(key.to_owned());
    }
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = after.get(..2).ok_or(KeyError("the key ends within an escape sequence"))?;
                let mut byte = [0];
                hex::decode_to_slice(digits, &mut byte)
                    .map_err(|_| KeyError("the key has a '%' without two hexadecimal digits after it"))?;
                bytes.extend(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| KeyError("the decoded key is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_encoded_keys_are_decoded_once() {
        let decode = |key| decode_key(key, KeyEncoding::Form);
        for (written, key) in [
            ("a/b.jpg", "a/b.jpg"),
            ("a+b%20c.jpg", "a b c.jpg"),
            ("1%2B1%3D2", "1+1=2"),
            ("%2523", "%23"),
            ("%23", "#"),
            ("gr%C3%B6%c3%9Fe", "größe"),
            ("größe", "größe"),
            ("", ""),
        ] {
            assert_eq!(decode(written).unwrap(), key, "{written}");
        }
        for bad in ["%", "a%2", "%zz", "%+1", "%C3", "%FF"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn raw_keys_are_taken_as_they_are() {
        assert_eq!(decode_key("a+b%20#%", KeyEncoding::Raw).unwrap(), "a+b%20#%");
    }
}
