//! Converts a row of a manifest or an inventory to an object.

use std::time::UNIX_EPOCH;

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use time::OffsetDateTime;

use super::store::decoded;
use crate::object::{SourceObject, unquoted_etag};

/// The meaning of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Bucket,
    Key,
    Version,
    IsLatest,
    IsDeleteMarker,
    Size,
    LastModified,
    Etag,
    /// Any other column.
    Other,
}

/// The layout of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The columns of files without header; `None` if each file names its columns.
    pub(crate) columns: Option<Vec<Column>>,
    /// Whether keys are URL-encoded.
    pub(crate) encoded_keys: bool,
    /// The bucket of rows without a bucket.
    pub(crate) bucket: Option<String>,
}

impl Column {
    /// The column with this name, in the spelling of AWS or other tools: `Key`, `key`, `e_tag`, `LastModifiedDate`.
    pub(crate) fn of_name(name: &str) -> Self {
        let plain: String =
            name.trim().chars().filter(|c| !matches!(c, '_' | '-' | ' ')).flat_map(char::to_lowercase).collect();
        match plain.as_str() {
            "bucket" => Self::Bucket,
            "key" => Self::Key,
            "version" | "versionid" => Self::Version,
            "islatest" => Self::IsLatest,
            "isdeletemarker" => Self::IsDeleteMarker,
            "size" => Self::Size,
            "lastmodified" | "lastmodifieddate" => Self::LastModified,
            "etag" => Self::Etag,
            _ => Self::Other,
        }
    }
}

/// The fields of a row, as text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    bucket: Option<String>,
    key: Option<String>,
    version: Option<String>,
    is_old: bool,
    is_delete_marker: bool,
    size: Option<String>,
    last_modified: Option<String>,
    etag: Option<String>,
}

impl Row {
    /// Sets a field. An empty text is ignored.
    pub(crate) fn set(&mut self, column: Column, text: &str) {
        if text.is_empty() {
            return;
        }
        let value = Some(text.to_owned());
        match column {
            Column::Bucket => self.bucket = value,
            Column::Key => self.key = value,
            Column::Version => self.version = value,
            Column::IsLatest => self.is_old = text.eq_ignore_ascii_case("false"),
            Column::IsDeleteMarker => self.is_delete_marker = text.eq_ignore_ascii_case("true"),
            Column::Size => self.size = value,
            Column::LastModified => self.last_modified = value,
            Column::Etag => self.etag = value,
            Column::Other => {}
        }
    }

    /// The object; `None` for a delete marker or a version that is not the latest.
    ///
    /// # Errors
    /// The problem, if the row is invalid.
    pub(crate) fn object(self, layout: &Layout) -> Result<Option<SourceObject>, String> {
        if self.is_old || self.is_delete_marker {
            return Ok(None);
        }
        let key = self.key.ok_or("it has no key")?;
        let (bucket, key) = match key.strip_prefix("s3://").and_then(|rest| rest.split_once('/')) {
            Some((bucket, key)) if self.bucket.is_none() => (Some(bucket.to_owned()), key.to_owned()),
            _ => (self.bucket, key),
        };
        let bucket = bucket
            .or_else(|| layout.bucket.clone())
            .ok_or("it has no bucket: add a column \"bucket\", write keys as s3://bucket/key, or use --bucket")?;
        let size = self.size.map(|size| size.parse().map_err(|_| format!("its size {size:?} is not a number")));
        Ok(Some(SourceObject {
            bucket,
            key: if layout.encoded_keys { decoded(&key) } else { key },
            size: size.transpose()?,
            etag: self.etag.map(|etag| unquoted_etag(&etag).to_owned()),
            // S3 writes "null" for an object without version.
            version: self.version.filter(|version| version != "null"),
            last_modified: self.last_modified.map(|time| seconds(&time)).transpose()?,
        }))
    }
}

/// Parses a time in the format of RFC 3339, or a date, with fractions of a second.
///
/// # Errors
/// A message, if it is neither.
pub fn time(text: &str) -> Result<OffsetDateTime, String> {
    let invalid = || format!("{text:?} is not a time such as 2026-11-29T08:00:00Z");
    OffsetDateTime::from_unix_timestamp_nanos(parsed(text).ok_or_else(invalid)?.as_nanos()).map_err(|_| invalid())
}

/// Like [`time()`], in seconds since 1970. Objects are compared to the second, so fractions are refused.
///
/// # Errors
/// A message, if it is not a time, or not one of whole seconds.
pub fn whole_seconds(text: &str) -> Result<i64, String> {
    let time = time(text)?;
    match time.nanosecond() {
        0 => Ok(time.unix_timestamp()),
        _ => Err(format!("{text:?} has a fraction of a second: objects are compared by whole seconds")),
    }
}

/// The whole seconds since 1970 of a time.
fn seconds(text: &str) -> Result<i64, String> {
    let time = parsed(text).ok_or_else(|| format!("{text:?} is not a time such as 2026-11-29T08:00:00Z"))?;
    Ok(time.secs())
}

fn parsed(text: &str) -> Option<DateTime> {
    let text = text.trim();
    let whole = if text.len() == "2026-11-29".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
    DateTime::from_str(&whole, DateTimeFormat::DateTimeWithOffset).ok()
}

/// Formats a time in seconds since 1970, so that [`seconds`] can parse it.
pub(crate) fn time_text(seconds: i64) -> String {
    DateTime::from_secs(seconds).fmt(DateTimeFormat::DateTime).unwrap_or_else(|_| format!("{UNIX_EPOCH:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Layout = Layout { columns: None, encoded_keys: false, bucket: None };

    fn row(fields: &[(&str, &str)]) -> Row {
        let mut row = Row::default();
        fields.iter().for_each(|(name, text)| row.set(Column::of_name(name), text));
        row
    }

    #[test]
    fn a_row_of_an_inventory_is_an_object_with_its_key_decoded() {
        let layout = Layout { encoded_keys: true, ..PLAIN };
        let fields = [
            ("Bucket", "b"),
            ("Key", "a+b/%C3%A4.jpg"),
            ("VersionId", "v1"),
            ("IsLatest", "true"),
            ("IsDeleteMarker", "false"),
            ("Size", "12"),
            ("LastModifiedDate", "2026-11-29T08:00:00.000Z"),
            ("ETag", "abc"),
            ("StorageClass", "STANDARD"),
        ];
        let object = SourceObject {
            bucket: "b".into(),
            key: "a b/ä.jpg".into(),
            size: Some(12),
            etag: Some("abc".into()),
            version: Some("v1".into()),
            last_modified: Some(1_795_939_200),
        };
        assert_eq!(row(&fields).object(&layout).unwrap(), Some(object));
    }

    #[test]
    fn delete_markers_and_old_versions_are_no_objects() {
        assert_eq!(row(&[("key", "k"), ("is_latest", "false")]).object(&PLAIN).unwrap(), None);
        assert_eq!(row(&[("key", "k"), ("is_delete_marker", "true")]).object(&PLAIN).unwrap(), None);
    }

    #[test]
    fn the_bucket_is_the_rows_that_of_its_address_or_the_default() {
        let of = |fields: &[(&str, &str)], bucket: Option<&str>| {
            row(fields).object(&Layout { bucket: bucket.map(str::to_owned), ..PLAIN })
        };
        assert_eq!(of(&[("key", "s3://x/a/k")], Some("d")).unwrap().unwrap().bucket, "x");
        assert_eq!(of(&[("key", "k"), ("bucket", "y")], Some("d")).unwrap().unwrap().bucket, "y");
        assert_eq!(of(&[("key", "k")], Some("d")).unwrap().unwrap().bucket, "d");
        assert!(of(&[("key", "k")], None).unwrap_err().contains("--bucket"));
        assert!(of(&[("bucket", "b")], None).unwrap_err().contains("no key"));
        assert!(of(&[("key", "k"), ("size", "x")], Some("d")).unwrap_err().contains("not a number"));
    }

    #[test]
    fn times_are_read_with_and_without_a_time_of_day() {
        assert_eq!(seconds("1970-01-02").unwrap(), 86_400);
        assert_eq!(seconds("1970-01-01T01:00:00+01:00").unwrap(), 0);
        assert_eq!(seconds(&time_text(1_795_939_200)).unwrap(), 1_795_939_200);
        assert!(seconds("yesterday").is_err() && time("yesterday").is_err());
        let precise = time("1970-01-01T00:00:01.5Z").unwrap();
        assert_eq!(precise.unix_timestamp_nanos(), 1_500_000_000);
        assert_eq!(time("1970-01-02").unwrap().unix_timestamp(), 86_400);
        assert_eq!(whole_seconds("1970-01-02"), Ok(86_400));
        assert!(whole_seconds("1970-01-01T00:00:01.5Z").unwrap_err().contains("whole seconds"));
        // Stores state fractions of the times of objects.
        assert_eq!(seconds("1970-01-01T00:00:01.5Z"), Ok(1));
    }
}
