//! Why a source cannot be read.

/// A source that cannot be read, or not to its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// The store does not list.
    #[error("s3://{bucket}/{prefix} cannot be listed: {cause}")]
    Listing {
        /// Bucket.
        bucket: String,
        /// Prefix.
        prefix: String,
        /// What the store or the connection said.
        cause: String,
        /// Whether the same request may succeed later.
        may_pass: bool,
    },
    /// The keys are not in the order of their bytes, so that they cannot be divided into ranges.
    #[error(
        "the store lists the keys of s3://{bucket} out of order ({before:?} before {key:?}), so that they cannot be divided into ranges: choose another dataset and --lanes 1"
    )]
    OutOfOrder {
        /// Bucket.
        bucket: String,
        /// The key that came first.
        before: String,
        /// The key after it.
        key: String,
    },
    /// A file cannot be opened or read.
    #[error("{file} cannot be read: {cause}")]
    File {
        /// The file.
        file: String,
        /// What went wrong.
        cause: String,
    },
    /// A row of a file does not name an object.
    #[error("{file}, row {row}: {problem}")]
    Row {
        /// The file.
        file: String,
        /// Its number, from 1, a header not counted.
        row: u64,
        /// What is wrong with it.
        problem: String,
    },
}

impl SourceError {
    pub(crate) fn file(file: impl std::fmt::Display, cause: impl std::fmt::Display) -> Self {
        Self::File { file: file.to_string(), cause: cause.to_string() }
    }
}
