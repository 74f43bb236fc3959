//! The objects of a source, and the position of a lane in its source.

use serde::{Deserialize, Serialize};

/// An object as a source lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceObject {
    /// Bucket.
    pub bucket: String,
    /// Key, not encoded.
    pub key: String,
    /// Size in bytes, where the source knows it.
    pub size: Option<u64>,
    /// ETag without quotes, where the source knows it.
    pub etag: Option<String>,
    /// Version, where the source knows it and the object has one.
    pub version: Option<String>,
    /// Time of the last change in seconds since 1970, where the source knows it.
    pub last_modified: Option<i64>,
}

/// How far a lane has been read: everything up to here has become jobs, or was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Nothing has been read.
    #[default]
    Start,
    /// All keys up to this one, in the order of their bytes.
    Key(String),
    /// Rows of a file.
    Row {
        /// Index of the file among those of the source.
        file: usize,
        /// Rows of it that have been read.
        row: u64,
        /// Where the next row begins in the file, in bytes; `None` for files that are read from their start.
        byte: Option<u64>,
    },
    /// Everything has been read.
    End,
}

/// The next objects of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Those that the filters let through; at most [`PAGE`].
    pub objects: Vec<SourceObject>,
    /// Objects of the source that were read for them.
    pub seen: u64,
    /// The position after them.
    pub after: Position,
}

/// Most objects of a page. With the cursor they make the 1000 messages that the server takes in one atomic batch.
pub const PAGE: usize = 999;

/// An ETag without its quotes.
pub(crate) fn bare_etag(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}
