//! Faults of jobs, and the table from fault to policy.

use std::time::Duration;

use broker::backoff::Backoff;
use engine::EngineError;
use kosmos2::processor::image::{DecodeLimit, ImageError};
use wire::job::JobError;
use wire::v1::FailureReason;

use crate::circuit_breaker::StoreUnavailable;
use crate::fetch::{FetchError, FetchErrorKind};
use crate::slow_reads::SlowReadAborted;
use broker::causes::causes;
use broker::publish::PublishError;

/// Why an attempt at a job did not produce an annotation.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The job cannot be decoded or is invalid.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The job's dataset is not that of its subject.
    #[error(
        "the job names the dataset {named:?} but was published to {subject}: publish it to groundling.jobs.{named}"
    )]
    WrongSubject {
        /// The job's dataset.
        named: String,
        /// The subject that it was published to.
        subject: String,
    },
    /// A task has a prompt in the model's own markup, which the settings do not allow.
    #[error(
        "the task {task_id:?} has a prompt in the model's own markup, which this worker does not allow: use another kind of task, or set worker.allow_raw_prompts"
    )]
    MarkupNotAllowed {
        /// The first such task.
        task_id: String,
    },
    /// The object could not be read. The text includes the causes, so it is not a source.
    #[error("{}{}", .0, raise(object_limit(.0)))]
    Fetch(FetchError),
    /// A slow read was aborted in favour of other jobs.
    #[error(transparent)]
    SlowReadAborted(#[from] SlowReadAborted),
    /// The circuit breaker of the object's bucket or prefix is open.
    #[error(transparent)]
    StoreUnavailable(#[from] StoreUnavailable),
    /// The picture could not be decoded.
    #[error("{}{}", .0, raise(picture_limit(.0)))]
    Picture(ImageError),
    /// The decoder panicked.
    #[error("the decoder panicked on the picture: {0}")]
    DecoderPanicked(String),
    /// The picture took too long to decode.
    #[error("the picture was not decoded within {0:?} (worker.decode_timeout)")]
    DecodingTimedOut(Duration),
    /// The engine returned an error.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine returned the wrong number of answers.
    #[error("the engine returned {answers} answers to {tasks} tasks")]
    WrongAnswerCount {
        /// Answers returned.
        answers: usize,
        /// Tasks of the job.
        tasks: usize,
    },
    /// The outcome could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The job took too long.
    #[error("the job was not done within {0:?} (worker.job_timeout)")]
    TimedOut(Duration),
    /// The picture could not be decoded and its bytes do not match the ETag.
    #[error("{0}, and the bytes do not match the object's ETag: they may have been damaged in transit")]
    Damaged(ImageError),
    /// The worker is shutting down and the job has not reached the model.
    #[error("the worker is shutting down")]
    ShuttingDown,
    /// The engine makes no progress, so the worker exits.
    #[error("the engine makes no progress")]
    EngineStalled,
    /// Every allowed attempt failed or never ended.
    #[error(
        "the job was started {attempts} times and no worker finished it: it may crash workers, so test it separately{}",
        last_error.as_ref().map_or_else(String::new, |error| format!("; the last known error was: {error}"))
    )]
    AttemptsExhausted {
        /// Attempts that failed or never ended.
        attempts: u64,
        /// The error of the last attempt that recorded one.
        last_error: Option<String>,
    },
    /// The server no longer delivers the job although it is in its stream.
    #[error(
        "the server no longer delivers the job although no worker has finished it{}",
        last_error.as_ref().map_or_else(String::new, |error| format!("; the last known error was: {error}"))
    )]
    NotDelivered {
        /// The error of the last attempt that recorded one.
        last_error: Option<String>,
    },
    /// The server delivered the job as often as the consumer's `max_deliver` allows.
    #[error(
        "the server delivered the job {deliveries} times, as often as the consumer's max_deliver allows, and no worker finished it{}",
        last_error.as_ref().map_or_else(String::new, |error| format!("; the last known error was: {error}"))
    )]
    DeliveriesExhausted {
        /// Deliveries, including released ones.
        deliveries: u64,
        /// The error of the last attempt that recorded one.
        last_error: Option<String>,
    },
}

/// What a fault leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The error may be temporary. The attempt counts. The job waits in the retries stream, with a delay by the number
    /// of attempts, and becomes a failure after the last allowed attempt.
    Retry(Backoff),
    /// The job is not at fault, and the fault may affect every job. The attempt does not count. The job is nacked, with
    /// a delay by the number of deliveries.
    Release(Backoff),
    /// The job is not at fault, but the fault affects only some jobs. The attempt does not count. The job waits in the
    /// retries stream, with a delay by the number of deliveries.
    Park(Backoff),
    /// This worker's own settings forbid the job. It is left to other workers for `worker.release_own_limits_for` and
    /// then becomes a failure with this reason.
    LeaveToOthers(FailureReason),
    /// The error is permanent: the job becomes a failure with this reason.
    Fail(FailureReason),
}

/// Ten attempts with these delays outlast an outage of a quarter of an hour.
const STORE_UNAVAILABLE: Policy = Policy::Retry(Backoff::seconds(2, 300));
const STORE_THROTTLES: Policy = Policy::Retry(Backoff::seconds(5, 300));
/// Every attempt fails for every job until the settings are corrected.
const STORE_MISCONFIGURED: Policy = Policy::Retry(Backoff::seconds(30, 600));
/// The worker's machine is at fault, not the job or its store.
const MACHINE_EXHAUSTED: Policy = Policy::Release(Backoff::seconds(5, 60));
/// The next read may take all of `s3.operation_timeout`.
const STORE_SLOW: Policy = Policy::Park(Backoff::seconds(1, 60));
/// Single reads probe the store.
const CIRCUIT_OPEN: Policy = Policy::Park(Backoff::seconds(5, 300));
/// The stream is full or unavailable. The outcome is expensive and may be claimed already, so the job waits without
/// limit.
const STREAM_UNAVAILABLE: Policy = Policy::Release(STREAM_UNAVAILABLE_BACKOFF);
pub(crate) const STREAM_UNAVAILABLE_BACKOFF: Backoff = Backoff::seconds(5, 300);
/// Another worker may have more free memory or another device.
const MODEL_FAILED: Policy = Policy::Retry(Backoff::seconds(1, 60));
const TIMED_OUT: Policy = Policy::Retry(Backoff::seconds(5, 300));
const DAMAGED: Policy = Policy::Retry(Backoff::seconds(1, 60));
const ENGINE_STOPPED: Policy = Policy::Release(Backoff::seconds(1, 1));
const SHUTTING_DOWN: Policy = Policy::Release(Backoff::seconds(0, 0));

impl From<FetchError> for Fault {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

impl From<ImageError> for Fault {
    fn from(error: ImageError) -> Self {
        Self::Picture(error)
    }
}

impl Fault {
    /// The table from fault to policy.
    pub fn policy(&self) -> Policy {
        use FailureReason as Reason;
        use Policy::{Fail, LeaveToOthers};
        match self {
            Self::Job(_) | Self::WrongSubject { .. } => Fail(Reason::InvalidJob),
            Self::MarkupNotAllowed { .. } => LeaveToOthers(Reason::InvalidPrompt),
            Self::Fetch(error) => fetch_policy(error.kind()),
            Self::SlowReadAborted(_) => STORE_SLOW,
            Self::StoreUnavailable(_) => CIRCUIT_OPEN,
            Self::Picture(error) => picture_policy(error),
            Self::DecoderPanicked(_) => Fail(Reason::UndecodablePicture),
            Self::DecodingTimedOut(_) => LeaveToOthers(Reason::DecodingTimedOut),
            // Limited by engine.slots and engine.slot_tokens.
            Self::Engine(EngineError::TooLong { .. } | EngineError::TooWide { .. }) => {
                LeaveToOthers(Reason::InvalidPrompt)
            }
            Self::Engine(error) if error.is_invalid_request() => Fail(Reason::InvalidPrompt),
            Self::Engine(EngineError::Stopped) | Self::EngineStalled => ENGINE_STOPPED,
            Self::Engine(_) | Self::WrongAnswerCount { .. } => MODEL_FAILED,
            Self::Publish(PublishError::TooLarge { .. }) => Fail(Reason::AnnotationTooLarge),
            Self::Publish(PublishError::Unavailable { .. } | PublishError::LeaseExpired) => STREAM_UNAVAILABLE,
            Self::TimedOut(_) => TIMED_OUT,
            Self::Damaged(_) => DAMAGED,
            Self::ShuttingDown => SHUTTING_DOWN,
            Self::AttemptsExhausted { .. } | Self::NotDelivered { .. } | Self::DeliveriesExhausted { .. } => {
                Fail(Reason::RetriesExhausted)
            }
        }
    }

    /// Whether this worker's engine has stopped.
    pub(crate) fn is_engine_stopped(&self) -> bool {
        matches!(self, Self::Engine(EngineError::Stopped))
    }

    /// The job's id, if the fault holds it.
    pub fn job_id(&self) -> Option<&str> {
        match self {
            Self::Job(error) => error.job_id(),
            _ => None,
        }
    }

    /// The error with its causes, for a failure record: at most 4 KiB, so that it fits into any record.
    pub fn message(&self) -> String {
        let mut message = causes(self);
        message.truncate(message.floor_char_boundary(4096));
        message
    }
}

/// The setting to raise so that the object can be read.
fn object_limit(error: &FetchError) -> Option<&'static str> {
    (error.kind() == FetchErrorKind::TooLarge).then_some("s3.max_object_bytes")
}

/// The setting to raise so that the picture can be decoded.
fn picture_limit(error: &ImageError) -> Option<&'static str> {
    Some(match error.exceeded_limit()? {
        DecodeLimit::Pixels => "worker.max_picture_pixels",
        DecodeLimit::Side => "worker.max_picture_side",
        DecodeLimit::Memory => "worker.max_decode_bytes",
    })
}

fn raise(setting: Option<&str>) -> String {
    setting.map_or_else(String::new, |setting| format!(": raise {setting} to accept it"))
}

fn fetch_policy(kind: FetchErrorKind) -> Policy {
    use FailureReason as Reason;
    use FetchErrorKind as Kind;
    match kind {
        Kind::NotFound | Kind::BadAddress => Policy::Fail(Reason::ObjectNotFound),
        Kind::Denied | Kind::Encrypted => Policy::Fail(Reason::ObjectForbidden),
        Kind::Archived => Policy::Fail(Reason::ObjectArchived),
        Kind::EncodingUnsupported => Policy::Fail(Reason::UnsupportedPicture),
        Kind::EncodingDamaged => Policy::Fail(Reason::UndecodablePicture),
        Kind::Changed => Policy::Fail(Reason::ObjectChanged),
        // Limited by s3.allow and s3.max_object_bytes.
        Kind::NotAllowed => Policy::LeaveToOthers(Reason::ObjectForbidden),
        Kind::TooLarge => Policy::LeaveToOthers(Reason::ObjectTooLarge),
        Kind::Unavailable => STORE_UNAVAILABLE,
        Kind::Throttled => STORE_THROTTLES,
        Kind::Misconfigured => STORE_MISCONFIGURED,
        Kind::Exhausted => MACHINE_EXHAUSTED,
    }
}

fn picture_policy(error: &ImageError) -> Policy {
    use FailureReason as Reason;
    match error {
        ImageError::UnknownFormat
        | ImageError::UnsupportedFormat { .. }
        | ImageError::NotAPicture { .. }
        | ImageError::Unsupported { .. } => Policy::Fail(Reason::UnsupportedPicture),
        ImageError::Empty | ImageError::Undecodable { .. } => Policy::Fail(Reason::UndecodablePicture),
        // Limited by worker.max_picture_pixels, worker.max_picture_side and worker.max_decode_bytes.
        ImageError::TooManyPixels { .. } | ImageError::SideTooLong { .. } | ImageError::TooMuchMemory { .. } => {
            Policy::LeaveToOthers(Reason::PictureTooLarge)
        }
        ImageError::TooMuchMetadata { .. } | ImageError::TooManyParts { .. } => Policy::Fail(Reason::PictureTooLarge),
        ImageError::TimedOut => Policy::LeaveToOthers(Reason::DecodingTimedOut),
    }
}

/// A delay between 0.75 and 1.25 of `delay`, depending on `chance` in 0..1, but at most `longest`. The jitter spreads
/// jobs that failed together.
pub fn jitter(delay: Duration, longest: Duration, chance: f64) -> Duration {
    delay.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(kind: FetchErrorKind) -> Fault {
        FetchError::new(kind, "s3://a/b could not be read").into()
    }

    fn unavailable() -> PublishError {
        PublishError::Unavailable { subject: "s".into(), stream: "S".into(), cause: "full".into() }
    }

    #[test]
    fn temporary_errors_are_retried_and_count() {
        for fault in [
            fetch(FetchErrorKind::Unavailable),
            fetch(FetchErrorKind::Throttled),
            fetch(FetchErrorKind::Misconfigured),
            Fault::TimedOut(Duration::from_secs(1)),
            Fault::Damaged(ImageError::Empty),
            Fault::WrongAnswerCount { answers: 1, tasks: 2 },
        ] {
            assert!(matches!(fault.policy(), Policy::Retry(_)), "{fault:?}");
        }
    }

    #[test]
    fn permanent_errors_fail_at_once_with_their_reason() {
        for (fault, reason) in [
            (fetch(FetchErrorKind::NotFound), FailureReason::ObjectNotFound),
            (fetch(FetchErrorKind::Denied), FailureReason::ObjectForbidden),
            (fetch(FetchErrorKind::Changed), FailureReason::ObjectChanged),
            (fetch(FetchErrorKind::Archived), FailureReason::ObjectArchived),
            (Fault::Picture(ImageError::UnknownFormat), FailureReason::UnsupportedPicture),
            (Fault::Picture(ImageError::Empty), FailureReason::UndecodablePicture),
            (Fault::AttemptsExhausted { attempts: 3, last_error: None }, FailureReason::RetriesExhausted),
        ] {
            assert_eq!(fault.policy(), Policy::Fail(reason), "{fault:?}");
        }
    }

    #[test]
    fn what_a_workers_own_settings_forbid_is_left_to_others_with_its_reason() {
        for (fault, reason) in [
            (fetch(FetchErrorKind::NotAllowed), FailureReason::ObjectForbidden),
            (fetch(FetchErrorKind::TooLarge), FailureReason::ObjectTooLarge),
            (Fault::MarkupNotAllowed { task_id: "t".into() }, FailureReason::InvalidPrompt),
            (Fault::Picture(ImageError::TimedOut), FailureReason::DecodingTimedOut),
            (Fault::DecodingTimedOut(Duration::from_secs(1)), FailureReason::DecodingTimedOut),
        ] {
            assert_eq!(fault.policy(), Policy::LeaveToOthers(reason), "{fault:?}");
        }
    }

    #[test]
    fn what_the_job_has_no_part_in_never_counts() {
        for fault in [
            Fault::Engine(EngineError::Stopped),
            Fault::EngineStalled,
            Fault::ShuttingDown,
            unavailable().into(),
            PublishError::LeaseExpired.into(),
            fetch(FetchErrorKind::Exhausted),
        ] {
            assert!(matches!(fault.policy(), Policy::Release(_)), "{fault:?}");
        }
        for fault in
            [Fault::SlowReadAborted(SlowReadAborted::Displaced), Fault::SlowReadAborted(SlowReadAborted::ShareUsed)]
        {
            assert!(matches!(fault.policy(), Policy::Park(_)), "{fault:?}");
        }
    }

    #[test]
    fn delays_are_spread_by_a_quarter_to_both_sides_and_never_beyond_the_longest() {
        let (delay, longest) = (Duration::from_secs(4), Duration::from_millis(4500));
        assert_eq!(jitter(delay, longest, 0.0), Duration::from_secs(3));
        assert_eq!(jitter(delay, longest, 0.5), delay);
        assert_eq!(jitter(delay, longest, 1.0), longest);
    }

    #[test]
    fn a_message_holds_the_causes_once_and_never_grows_without_bound() {
        let cause = FetchError::new(FetchErrorKind::Unavailable, "s3://a/b could not be read").because("broken pipe");
        assert_eq!(Fault::from(cause).message(), "s3://a/b could not be read: broken pipe");
        let long = Fault::DecoderPanicked("ä".repeat(5000));
        assert!(long.message().len() <= 4096);
    }
}
