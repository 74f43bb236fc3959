//! The webhook of SeaweedFS. It tells changes of the filer's directory tree, in which buckets are below `/buckets/`.
//!
//! `{"event_type": "create", "key": "/buckets/BUCKET/KEY", "message": {"new_entry": {…}, "new_parent_path": …}}`.
//! A version of the object `a.jpg` is the file `a.jpg.versions/v_ID`; parts of uploads are in `.uploads/`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use telemetry::ingest_attributes::IngestReason;
use time::OffsetDateTime;

use super::json::{at, required, size, text};
use crate::ingest::record::{DecodeError, ObjectRecord, Record};
use crate::object::unquoted_etag;

const BUCKETS: &str = "/buckets/";
const UPLOADS: &str = ".uploads";
const VERSIONS: &str = ".versions";
const ETAG: &str = "Seaweed-X-Amz-ETag";
const VERSION: &str = "Seaweed-X-Amz-Version-Id";
const DELETE_MARKER: &str = "Seaweed-X-Amz-Delete-Marker";
const PARTS: &str = "X-Seaweedfs-Multipart-Parts-Count";

pub(super) fn recognizes(value: &Value) -> bool {
    text(value, &["event_type"]).is_some() && text(value, &["key"]).is_some() && value.get("message").is_some()
}

pub(super) fn decode(value: &Value) -> Result<Record, DecodeError> {
    let event = required(value, &["event_type"])?;
    let old_path = required(value, &["key"])?;
    let message = at(value, &["message"]).ok_or_else(|| DecodeError("message is missing".to_owned()))?;
    let is_there = |entry: &&Value| !entry.is_null();
    let (old, new) = (message.get("old_entry").filter(is_there), message.get("new_entry").filter(is_there));
    let Some(entry) = new else {
        return Ok(Record::other(IngestReason::Delete, old_path));
    };
    // After a rename, `key` is the old path.
    let path = match (text(message, &["new_parent_path"]), text(entry, &["name"])) {
        (Some(parent), Some(name)) => format!("{}/{name}", parent.trim_end_matches('/')),
        _ => old_path.to_owned(),
    };
    let in_bucket = path.strip_prefix(BUCKETS).and_then(|rest| rest.split_once('/'));
    let Some((bucket, key)) = in_bucket.filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty()) else {
        return Ok(Record::other(IngestReason::Outside, path));
    };
    if key == UPLOADS || key.starts_with(".uploads/") {
        return Ok(Record::other(IngestReason::UploadPart, path));
    }
    if at(entry, &["is_directory"]).and_then(Value::as_bool) == Some(true) {
        return Ok(Record::other(IngestReason::Directory, path));
    }
    if extended(entry, DELETE_MARKER).is_some_and(|marker| marker == "true") {
        return Ok(Record::other(IngestReason::Delete, path));
    }
    let is_changed = event == "rename" || old.is_none_or(|old| content(old) != content(entry));
    if !is_changed {
        return Ok(Record::other(IngestReason::Metadata, path));
    }
    let version = extended(entry, VERSION).filter(|version| version != "null");
    let key = match (&version, key.rsplit_once('/')) {
        (Some(_), Some((directory, _))) => {
            directory.strip_suffix(VERSIONS).filter(|object| !object.is_empty()).unwrap_or(key)
        }
        _ => key,
    };
    let is_multipart = at(entry, &["extended", PARTS]).is_some();
    let modified = [["attributes", "mtime"], ["attributes", "mtime_ns"]].map(|path| number(entry, &path));
    Ok(Record::Object(ObjectRecord {
        event: if is_multipart { "ObjectCreated:CompleteMultipartUpload" } else { "ObjectCreated:Put" }.to_owned(),
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        is_key_encoded: false,
        size: Some(entry_size(entry)),
        etag: etag(entry),
        version,
        // An object without an ETag was written by another client than S3.
        sequencer: Some(format!("{:?}", modified)),
        time: modified[0].and_then(|seconds| {
            let at = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
            at.checked_add(time::Duration::nanoseconds(modified[1].unwrap_or_default()))
        }),
    }))
}

/// What differs between two contents of a file.
fn content(entry: &Value) -> [Option<&Value>; 3] {
    [entry.get("chunks"), entry.get("content"), at(entry, &["extended", ETAG])]
}

/// The ETag that S3 shows: the stored one, or the MD5 of a file that was written otherwise.
fn etag(entry: &Value) -> Option<String> {
    let stored = extended(entry, ETAG).map(|etag| unquoted_etag(&etag).to_owned()).filter(|etag| !etag.is_empty());
    stored.or_else(|| {
        let digest = BASE64_STANDARD.decode(text(entry, &["attributes", "md5"])?).ok()?;
        Some(hex::encode(digest))
    })
}

/// The bytes of a file: what its attributes say, or its chunks, or its inlined content.
fn entry_size(entry: &Value) -> u64 {
    let chunks = entry.get("chunks").and_then(Value::as_array).into_iter().flatten();
    let end = |chunk: &Value| {
        let offset = size(chunk, &["offset"]).unwrap_or_default();
        offset.saturating_add(size(chunk, &["size"]).unwrap_or_default())
    };
    let inlined = text(entry, &["content"]).map_or(0, |content| (content.trim_end_matches('=').len() * 3 / 4) as u64);
    let attribute = size(entry, &["attributes", "file_size"]).unwrap_or_default();
    chunks.map(end).max().unwrap_or_default().max(inlined).max(attribute)
}

/// An extended attribute, which is Base64.
fn extended(entry: &Value, name: &str) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(text(entry, &["extended", name])?).ok()?).ok()
}

fn number(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path)?.as_i64()
}
