//! Why a model is not available.

use std::error::Error;
use std::io;
use std::path::Path;

use broker::causes::causes;

/// Why a model is not available, in one sentence with the fix. Callers decide by [`ModelError::kind`].
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct ModelError {
    kind: ModelErrorKind,
    sentence: String,
}

/// The kinds of [`ModelError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelErrorKind {
    /// The source is not written as it must be.
    InvalidSource,
    /// The repository, revision, bucket or file does not exist.
    NotFound,
    /// Access is denied: no token or key, a wrong one, or one without the permission.
    Denied,
    /// The source lacks a file of the model.
    Incomplete,
    /// No response, an invalid response, or an internal error of the source. Another attempt may succeed.
    Unavailable,
    /// The bytes do not match their digest or size.
    Damaged,
    /// Too little space on the disk of the cache.
    DiskFull,
    /// The cache cannot be used.
    Cache,
    /// The model is not in the cache, and nothing may be downloaded.
    Offline,
}

impl ModelError {
    pub(crate) fn new(kind: ModelErrorKind, sentence: impl Into<String>) -> Self {
        Self { kind, sentence: sentence.into() }
    }

    pub(crate) fn unavailable(sentence: impl Into<String>) -> Self {
        Self::new(ModelErrorKind::Unavailable, sentence)
    }

    /// An error of the file system.
    pub(crate) fn io(what: &str, path: &Path, cause: io::Error) -> Self {
        let path = path.display();
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::new(
                ModelErrorKind::DiskFull,
                format!(
                    "cannot {what} {path}: the disk is full; free space, or set HF_HOME or XDG_CACHE_HOME to a larger disk"
                ),
            ),
            _ => Self::new(
                ModelErrorKind::Cache,
                format!("cannot {what} {path}: {cause}; set HF_HOME or XDG_CACHE_HOME to a writable directory"),
            ),
        }
    }

    /// Adds the causes to the sentence, each once.
    pub(crate) fn because(mut self, cause: &(dyn Error + 'static)) -> Self {
        self.sentence = format!("{}: {}", self.sentence, causes(cause));
        self
    }

    /// The kind of error.
    pub fn kind(&self) -> ModelErrorKind {
        self.kind
    }
}
