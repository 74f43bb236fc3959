//! Values of JSON, as senders write them.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ingest::record::DecodeError;
use crate::object::unquoted_etag;

/// The value at a path.
pub(super) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// The text at a path; `None` if there is none, or it is empty.
pub(super) fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    at(value, path)?.as_str().filter(|text| !text.is_empty())
}

/// The text at a path.
pub(super) fn required<'a>(value: &'a Value, path: &[&str]) -> Result<&'a str, DecodeError> {
    text(value, path).ok_or_else(|| DecodeError(format!("{} is missing", path.join("."))))
}

/// The size at a path. Ceph's documentation writes it as a string.
pub(super) fn size(value: &Value, path: &[&str]) -> Option<u64> {
    let size = at(value, path)?;
    size.as_u64().or_else(|| size.as_str()?.parse().ok())
}

/// The time at a path.
pub(super) fn time(value: &Value, path: &[&str]) -> Option<OffsetDateTime> {
    parse_time(text(value, path)?)
}

/// A time as RFC 3339 has it.
pub(super) fn parse_time(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

/// An ETag without quotes.
pub(super) fn etag(value: &Value, path: &[&str]) -> Option<String> {
    text(value, path).map(|etag| unquoted_etag(etag).to_owned()).filter(|etag| !etag.is_empty())
}

/// A version. Objects of a bucket without versions, and those that are older than its versions, have the version `null`,
/// which each new state replaces, so it does not identify one.
pub(super) fn version(value: &Value, path: &[&str]) -> Option<String> {
    text(value, path).filter(|version| *version != "null").map(str::to_owned)
}
