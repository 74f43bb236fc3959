//! Reads the bytes of pictures: [`s3`] for jobs, [`http`] for addresses on the command line.

mod action;
pub mod bucket_probe;
mod client;
mod encoding;
pub mod environment;
mod error_document;
mod headers;
pub mod http;
mod layers;
pub mod request_error;
pub mod s3;
mod size_estimate;
mod store_error;

use std::error::Error;
use std::io;

use bytes::Bytes;
use rustix::io::Errno;
use wire::v1::ObjectIdentity;

use broker::causes::causes;

/// An object that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// The object's bytes, without their content encoding.
    pub bytes: Bytes,
    /// The object's identity, as the store reports it.
    pub identity: ObjectIdentity,
    /// The MD5 of the stored bytes in hexadecimal, if a content encoding was removed from them.
    pub stored_md5: Option<String>,
}

/// Why an object or address could not be read, in one sentence with its causes. Callers decide by [`FetchError::kind`].
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct FetchError {
    kind: FetchErrorKind,
    sentence: String,
}

/// The kinds of [`FetchError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FetchErrorKind {
    /// The bucket, object or version does not exist.
    NotFound,
    /// The settings do not allow this bucket or prefix.
    NotAllowed,
    /// The store denies access.
    Denied,
    /// The object no longer has the ETag or version that the job names.
    Changed,
    /// The object has too many bytes.
    TooLarge,
    /// The store throttles requests.
    Throttled,
    /// No response, an invalid response, or an internal error of the store.
    Unavailable,
    /// The store rejects the request because of its key, signature, time or region. The object is not at fault.
    Misconfigured,
    /// The address is invalid.
    BadAddress,
    /// The object is archived and must be restored before it can be read.
    Archived,
    /// The object is encrypted with a key that the worker does not have or that the store cannot use.
    Encrypted,
    /// The object's content encoding is not supported.
    EncodingUnsupported,
    /// The object cannot be decoded according to its content encoding.
    EncodingDamaged,
    /// The worker's machine has no free file descriptor, port or memory for a connection.
    Exhausted,
}

impl FetchError {
    pub(crate) fn new(kind: FetchErrorKind, sentence: impl Into<String>) -> Self {
        Self { kind, sentence: sentence.into() }
    }

    /// Adds the causes to the sentence, each once. They are not kept as a source, so that printing an error with its
    /// sources does not repeat them.
    ///
    /// If a cause is a lack of resources on this machine, the kind becomes [`FetchErrorKind::Exhausted`].
    pub(crate) fn because(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let cause = cause.into();
        if is_exhaustion(cause.as_ref()) {
            self.kind = FetchErrorKind::Exhausted;
        }
        self.sentence = format!("{}: {}", self.sentence, causes(cause.as_ref()));
        self
    }

    /// The kind of error.
    pub fn kind(&self) -> FetchErrorKind {
        self.kind
    }
}

/// Whether the error or one of its sources is a lack of resources on this machine.
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

/// The error for an unsupported content encoding.
fn unsupported_encoding(what: &str, encoding: &str) -> FetchError {
    let sentence = format!(
        "{what} has the unsupported content encoding {encoding:?}: store it without one, or with gzip or deflate"
    );
    FetchError::new(FetchErrorKind::EncodingUnsupported, sentence)
}

/// The error for an object that is too large.
pub(crate) fn too_large(what: &str, limit: u64) -> FetchError {
    FetchError::new(FetchErrorKind::TooLarge, format!("{what} has more than {limit} bytes"))
}
