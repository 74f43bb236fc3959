//! Why a picture has no annotation.

use std::io::{self, ErrorKind};

use engine::EngineError;
use kosmos2::processor::image::{DecodeLimit, ImageError};
use wire::v1::FailureReason;
use worker::faults::{Fault, Policy};
use worker::fetch::FetchErrorKind;

use crate::errors::plain;
use crate::sources::reader::ReadError;

/// Why a picture has no annotation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    pub(super) reason: FailureReason,
    /// The error in a sentence, with the option that raises an exceeded limit.
    pub(super) message: String,
    /// Whether the bytes are not those of a picture, in a supported format or another one.
    pub(super) is_no_picture: bool,
}

impl Failure {
    fn new(reason: FailureReason, message: String) -> Self {
        Self { reason, message, is_no_picture: false }
    }

    /// A failure of this program.
    pub(super) fn internal(message: &str) -> Self {
        Self::new(FailureReason::Internal, message.to_owned())
    }

    /// The message after the picture's name, unless it has that already.
    pub(super) fn named(&self, name: &str) -> String {
        // Names such as `-` occur in other words too.
        let has_name = self.message.starts_with(name) || (name.contains("://") && self.message.contains(name));
        if has_name { self.message.clone() } else { format!("{name}: {}", self.message) }
    }

    /// The same failure, with advice.
    pub(super) fn advising(self, advice: &str) -> Self {
        Self { message: with_advice(self.message, Some(advice)), ..self }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let message = plain(&error);
        match error {
            ReadError::Fetch(error) => {
                let advice = (error.kind() == FetchErrorKind::TooLarge).then_some("raise --max-bytes to allow it");
                Self::new(reason(&Fault::from(error)), with_advice(message, advice))
            }
            ReadError::File(error) | ReadError::Directory(error) => Self::new(file_reason(&error), message),
            ReadError::NotAFile(_) => Self::new(FailureReason::UnsupportedPicture, message),
            ReadError::TooLarge { .. } => Self::new(FailureReason::ObjectTooLarge, message),
            ReadError::Store(_) => Self::new(FailureReason::ObjectForbidden, message),
            ReadError::Panicked => Self::new(FailureReason::Internal, message),
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let advice = error.exceeded_limit().map(|limit| match limit {
            DecodeLimit::Pixels => "raise --max-pixels to allow it",
            DecodeLimit::Side => "raise --max-side to allow it",
            DecodeLimit::Memory => "raise --max-decode-bytes to allow it",
        });
        let is_no_picture = error.is_no_picture();
        let message = with_advice(plain(&error), advice);
        Self { reason: reason(&Fault::from(error)), message, is_no_picture }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let message = plain(&error);
        Self::new(reason(&Fault::from(error)), message)
    }
}

fn with_advice(message: String, advice: Option<&str>) -> String {
    match advice {
        Some(advice) => format!("{message}; {advice}"),
        None => message,
    }
}

/// The reason of a worker's failure for the same fault, if nothing is retried.
fn reason(fault: &Fault) -> FailureReason {
    match fault.policy() {
        Policy::Fail(reason) | Policy::LeaveToOthers(reason) => reason,
        Policy::Retry(_) | Policy::Release(_) | Policy::Park(_) => FailureReason::RetriesExhausted,
    }
}

fn file_reason(error: &io::Error) -> FailureReason {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => FailureReason::ObjectNotFound,
        ErrorKind::PermissionDenied => FailureReason::ObjectForbidden,
        ErrorKind::IsADirectory => FailureReason::UnsupportedPicture,
        _ => FailureReason::RetriesExhausted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_the_reason_of_a_workers_and_names_the_option_that_helps() {
        let failure = Failure::from(ImageError::UnknownFormat);
        assert_eq!((failure.reason, failure.is_no_picture), (FailureReason::UnsupportedPicture, true));
        let failure = Failure::from(ImageError::TooManyPixels { width: 9, height: 9, limit: 80 });
        assert_eq!((failure.reason, failure.is_no_picture), (FailureReason::PictureTooLarge, false));
        assert!(failure.message.ends_with("; raise --max-pixels to allow it"), "{}", failure.message);
        let failure = Failure::from(ReadError::from(io::Error::from(ErrorKind::NotFound)));
        assert_eq!(failure.reason, FailureReason::ObjectNotFound);
        assert_eq!(failure.named("a.jpg"), "a.jpg: there is no such file");
        let failure = Failure::internal("access to s3://b/k is denied");
        assert_eq!(failure.named("s3://b/k"), "access to s3://b/k is denied");
        let failure = Failure::from(ReadError::from(io::Error::from_raw_os_error(13)));
        assert_eq!(failure.message, "cannot be read: Permission denied");
    }
}
