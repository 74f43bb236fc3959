//! Why a picture has no annotation.

use std::io::{self, ErrorKind};

use broker::causes::causes;
use engine::EngineError;
use kosmos2::processor::image::{DecodeLimit, ImageError};
use wire::v1::FailureReason;
use worker::faults::{Fault, Policy};
use worker::fetch::FetchErrorKind;

use crate::sources::reader::ReadError;

/// Why a picture has no annotation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    pub(super) reason: FailureReason,
    /// The error in a sentence, with the option that raises an exceeded limit.
    pub(super) message: String,
    /// Whether the bytes are not those of a picture in a supported format.
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

    /// The message after the picture's name, unless it begins with that.
    pub(super) fn named(&self, name: &str) -> String {
        if self.message.starts_with(name) { self.message.clone() } else { format!("{name}: {}", self.message) }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let message = causes(&error);
        match error {
            ReadError::Fetch(error) => {
                let option = (error.kind() == FetchErrorKind::TooLarge).then_some("--max-bytes");
                Self::new(reason(&Fault::from(error)), with_advice(message, option))
            }
            ReadError::File(error) => Self::new(file_reason(&error), message),
            ReadError::NotAFile(_) => Self::new(FailureReason::UnsupportedPicture, message),
            ReadError::TooLarge { .. } => Self::new(FailureReason::ObjectTooLarge, message),
            ReadError::Store(_) => Self::new(FailureReason::ObjectForbidden, message),
            ReadError::Panicked => Self::new(FailureReason::Internal, message),
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let option = error.exceeded_limit().map(|limit| match limit {
            DecodeLimit::Pixels => "--max-pixels",
            DecodeLimit::Side => "--max-side",
            DecodeLimit::Memory => "--max-decode-bytes",
        });
        let is_no_picture =
            matches!(error, ImageError::Empty | ImageError::UnknownFormat | ImageError::UnsupportedFormat { .. });
        let message = with_advice(causes(&error), option);
        Self { reason: reason(&Fault::from(error)), message, is_no_picture }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let message = causes(&error);
        Self::new(reason(&Fault::from(error)), message)
    }
}

fn with_advice(message: String, option: Option<&str>) -> String {
    match option {
        Some(option) => format!("{message}; raise {option} to allow it"),
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
        assert!(failure.named("a.jpg").starts_with("a.jpg: "));
    }
}
