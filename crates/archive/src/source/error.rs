//! Why a source cannot be read.

/// A source cannot be read to its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// The store failed to list keys.
    #[error("s3://{bucket}/{prefix} cannot be listed: {cause}")]
    Listing {
        /// Bucket.
        bucket: String,
        /// Prefix.
        prefix: String,
        /// The error of the store or the connection.
        cause: String,
        /// Whether the same request may succeed later.
        is_temporary: bool,
    },
    /// The store does not list keys in byte order, which ranges of keys require.
    #[error(
        "the store does not list the keys of s3://{bucket} in byte order ({before:?} before {key:?}), so they cannot be divided into ranges: use another dataset with --lanes 1"
    )]
    OutOfOrder {
        /// Bucket.
        bucket: String,
        /// The key that was listed first.
        before: String,
        /// The key after it.
        key: String,
    },
    /// A file cannot be opened or read.
    #[error("{file} cannot be read: {cause}")]
    File {
        /// The file.
        file: String,
        /// The error.
        cause: String,
    },
    /// A row of a file is invalid.
    #[error("{file}, row {row}: {problem}")]
    Row {
        /// The file.
        file: String,
        /// The number of the row, from 1, without the header.
        row: u64,
        /// The problem.
        problem: String,
    },
}

impl SourceError {
    pub(crate) fn file(file: impl std::fmt::Display, cause: impl std::fmt::Display) -> Self {
        Self::File { file: file.to_string(), cause: cause.to_string() }
    }
}
