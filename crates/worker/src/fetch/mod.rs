//! Getting at the bytes of a picture: [`s3`] for jobs, [`http`] for addresses given by hand.

pub mod environment;
pub mod http;
pub mod s3;
mod usual;

use std::error::Error;

use bytes::Bytes;
use protocol::v1::ObjectIdentity;

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// The object's bytes.
    pub bytes: Bytes,
    /// Which object they are, as the store says.
    pub identity: ObjectIdentity,
}

/// Why nothing was read. [`FetchError::kind`] is what callers decide by.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct FetchError {
    kind: FetchErrorKind,
    sentence: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// The kinds of [`FetchError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FetchErrorKind {
    /// There is no such bucket, object or version.
    NotFound,
    /// The settings do not allow this bucket or prefix.
    NotAllowed,
    /// The store does not let this worker read it.
    Denied,
    /// It is not the pinned ETag or version any more.
    Changed,
    /// More bytes than allowed.
    TooLarge,
    /// The store asks for fewer requests.
    Throttled,
    /// No answer, a broken answer, or a fault of the store's own.
    Unavailable,
    /// The store does not accept this worker: key, signature, clock or region. No fault of the object's.
    Misconfigured,
    /// The address cannot be used at all.
    BadAddress,
}

impl FetchError {
    pub(crate) fn new(kind: FetchErrorKind, sentence: impl Into<String>) -> Self {
        Self { kind, sentence: sentence.into(), source: None }
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What went wrong, to decide by.
    pub fn kind(&self) -> FetchErrorKind {
        self.kind
    }
}

/// "more than N bytes", the same for every way of reading.
pub(crate) fn too_large(what: &str, limit: u64, mend: &str) -> FetchError {
    FetchError::new(FetchErrorKind::TooLarge, format!("{what} has more than {limit} bytes: {mend}"))
}
