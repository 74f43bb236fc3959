//! Getting at the bytes of a picture: [`s3`] for jobs, [`http`] for addresses given by hand.

mod client;
mod encoding;
pub mod environment;
mod headers;
pub mod http;
mod layers;
mod refusal;
pub mod s3;
mod size_estimate;

use std::error::Error;
use std::io;

use bytes::Bytes;
use rustix::io::Errno;
use wire::v1::ObjectIdentity;

use broker::causes::causes;

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// The object's bytes, without their content encoding.
    pub bytes: Bytes,
    /// Which object they are, as the store says.
    pub identity: ObjectIdentity,
    /// MD5 of the bytes that the store keeps, in hexadecimal, where a content encoding was removed from them.
    pub stored_md5: Option<String>,
}

/// Why nothing was read, in one sentence with its causes. [`FetchError::kind`] is what callers decide by.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct FetchError {
    kind: FetchErrorKind,
    sentence: String,
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
    /// It is in an archive and must be restored before it can be read.
    Archived,
    /// It is encrypted with a key that the worker does not have, or that the store cannot use.
    Encrypted,
    /// It has a content encoding that is not supported.
    EncodingUnsupported,
    /// It is not what its content encoding says.
    EncodingDamaged,
    /// This worker's machine has no file descriptor, port or memory left for a connection.
    Exhausted,
}

impl FetchError {
    pub(crate) fn new(kind: FetchErrorKind, sentence: impl Into<String>) -> Self {
        Self { kind, sentence: sentence.into() }
    }

    /// Adds the causes to the sentence, each once. They are not kept as a source: whoever prints an error with its
    /// sources would repeat them.
    ///
    /// A cause on this machine makes the error [`FetchErrorKind::Exhausted`], whatever it was taken for.
    pub(crate) fn because(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let cause = cause.into();
        if is_exhaustion(cause.as_ref()) {
            self.kind = FetchErrorKind::Exhausted;
        }
        self.sentence = format!("{}: {}", self.sentence, causes(cause.as_ref()));
        self
    }

    /// What went wrong, to decide by.
    pub fn kind(&self) -> FetchErrorKind {
        self.kind
    }
}

/// Whether the error or one of its sources says that this machine has run out of something.
fn is_exhaustion(error: &(dyn Error + 'static)) -> bool {
    const CODES: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::ADDRNOTAVAIL, Errno::NOMEM];
    let mut next = Some(error);
    while let Some(error) = next {
        let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if code.is_some_and(|code| CODES.iter().any(|known| known.raw_os_error() == code)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// A content encoding that is not supported, the same for every way of reading.
fn unsupported_encoding(what: &str, encoding: &str) -> FetchError {
    let sentence = format!(
        "{what} has the content encoding {encoding:?}, which is not supported: store it without one, or with gzip or deflate"
    );
    FetchError::new(FetchErrorKind::EncodingUnsupported, sentence)
}

/// "more than N bytes", the same for every way of reading.
pub(crate) fn too_large(what: &str, limit: u64) -> FetchError {
    FetchError::new(FetchErrorKind::TooLarge, format!("{what} has more than {limit} bytes"))
}
