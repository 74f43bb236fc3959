//! The objects of a source, and positions in it.

use serde::{Deserialize, Serialize};

/// An object of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceObject {
    /// The bucket.
    pub bucket: String,
    /// The key, not URL-encoded.
    pub key: String,
    /// Size in bytes, if the source contains it.
    pub size: Option<u64>,
    /// ETag without quotes, if the source contains it.
    pub etag: Option<String>,
    /// Version, if the object has one and the source contains it.
    pub version: Option<String>,
    /// Time of the last modification in seconds since 1970, if the source contains it.
    pub last_modified: Option<i64>,
}

/// The position up to which a lane has been read and its jobs have been stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Nothing has been read.
    #[default]
    Start,
    /// All keys up to this one, inclusive, in byte order.
    Key(String),
    /// Some rows of a file, and all files of the lane before it.
    Row {
        /// The index of the file in the source.
        file: usize,
        /// The number of rows that have been read.
        row: u64,
        /// The byte offset of the next row; `None` for files that can only be read from their start.
        byte: Option<u64>,
    },
    /// The end of the lane.
    End,
}

/// The next objects of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The objects that pass the filter, at most [`PAGE_SIZE`].
    pub objects: Vec<SourceObject>,
    /// The number of objects that were read, including those that do not pass.
    pub seen: u64,
    /// The position after the page.
    pub after: Position,
}

/// The maximum number of objects of a page. With the cursor, they are the 1000 messages that the server accepts in one
/// atomic batch.
pub const PAGE_SIZE: usize = 999;

/// An ETag without quotes and weakness prefix.
pub(crate) fn unquoted_etag(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}
