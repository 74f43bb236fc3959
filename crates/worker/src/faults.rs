//! What goes wrong with jobs, and the one table that says what is done about it.

use std::time::Duration;

use broker::backoff::Backoff;
use engine::EngineError;
use kosmos2::processor::image::{DecodeLimit, ImageError};
use wire::job::JobError;
use wire::v1::FailureReason;

use crate::fetch::{FetchError, FetchErrorKind};
use crate::slow_reads::BrokenOff;
use crate::stores::StoreAway;
use broker::causes::causes;
use broker::publish::PublishError;

/// Why a job was not done this time.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The job cannot be read or breaks rules.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The job names another dataset than its subject.
    #[error(
        "the job names the dataset {named:?} but was published to {subject}: publish it to groundling.jobs.{named}"
    )]
    WrongSubject {
        /// The dataset in the job.
        named: String,
        /// Where it was published.
        subject: String,
    },
    /// A task comes with markup of its own, and the settings do not allow it.
    #[error(
        "the task {task_id:?} comes with markup of its own, and this worker takes none: ask in plain words, or let worker.allow_raw_prompts be set"
    )]
    MarkupNotAllowed {
        /// The first such task.
        task_id: String,
    },
    /// The object was not read.
    #[error("{}{}", .0, raise(object_limit(.0)))]
    Fetch(#[from] FetchError),
    /// The read was slow and was broken off for the sake of others.
    #[error(transparent)]
    BrokenOff(#[from] BrokenOff),
    /// The store, or the part of it that the object is in, does not answer any job at present.
    #[error(transparent)]
    StoreAway(#[from] StoreAway),
    /// The picture was not decoded.
    #[error("{}{}", .0, raise(picture_limit(.0)))]
    Picture(#[from] ImageError),
    /// The decoder panicked.
    #[error("decoding the picture made the decoder panic: {0}")]
    DecoderPanicked(String),
    /// The picture took too long to decode.
    #[error("the picture was not decoded within {0:?} (worker.decode_timeout)")]
    DecodingTimedOut(Duration),
    /// The engine did not answer.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine answered with another number of texts than it was asked for.
    #[error("the engine gave {answers} answers to {tasks} tasks")]
    AnswersMissing {
        /// What it gave.
        answers: usize,
        /// What it was asked.
        tasks: usize,
    },
    /// The annotation was not published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// It took too long.
    #[error("the job was not done within {0:?} (worker.job_timeout)")]
    TimedOut(Duration),
    /// The picture cannot be decoded, and its bytes are not those that the store's ETag names.
    #[error("{0}, and the bytes are not those of the object's ETag: they may have been damaged on the way")]
    Damaged(#[source] ImageError),
    /// The worker ends before the job has reached the model.
    #[error("the worker is shutting down")]
    ShuttingDown,
    /// Started as often as allowed without an end.
    #[error(
        "the job was started {attempts} times and no worker finished it: it may crash workers, test it alone{}",
        last_error.as_ref().map_or_else(String::new, |error| format!("; the last known error was: {error}"))
    )]
    NeverSettled {
        /// Attempts that failed or never ended.
        attempts: u64,
        /// The error of the last attempt that reported one.
        last_error: Option<String>,
    },
    /// It is in its stream, and the server does not deliver it.
    #[error(
        "the server does not deliver the job any more, though no worker has finished it{}",
        last_error.as_ref().map_or_else(String::new, |error| format!("; the last known error was: {error}"))
    )]
    NotDelivered {
        /// The error of the last attempt that reported one.
        last_error: Option<String>,
    },
    /// The server has delivered it as often as its consumer allows.
    #[error(
        "the server delivered the job {deliveries} times, as often as the consumer's max_deliver allows, and no worker finished it{}",
        last_error.as_ref().map_or_else(String::new, |error| format!("; the last known error was: {error}"))
    )]
    DeliveriesExhausted {
        /// Deliveries, released ones included.
        deliveries: u64,
        /// The error of the last attempt that reported one.
        last_error: Option<String>,
    },
}

/// What is done about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The error may be temporary. The attempt counts; after the last allowed one the job becomes a failure. Until then it
    /// waits apart from new jobs, by the number of attempts.
    Retry(Backoff),
    /// The job has no part in it, and every job may meet it. The attempt does not count, and the job goes back to the
    /// stream that it came from, with a delay by the number of deliveries.
    Release(Backoff),
    /// The job has no part in it, but only some jobs meet it. The attempt does not count, and the job waits apart from new
    /// jobs, with a delay by the number of deliveries.
    Park(Backoff),
    /// This worker's own settings forbid the job: it is left to other workers for `worker.release_own_limits_for`, and
    /// then becomes a failure with this reason.
    LeaveToOthers(FailureReason),
    /// The error is permanent: the job becomes a failure with this reason.
    Fail(FailureReason),
}

/// Ten attempts at these delays outlast an outage of a quarter of an hour.
const STORE_UNAVAILABLE: Policy = Policy::Retry(Backoff::seconds(2, 300));
const STORE_THROTTLES: Policy = Policy::Retry(Backoff::seconds(5, 300));
/// Until somebody corrects the settings: each attempt would fail in the same way for every job.
const STORE_MISCONFIGURED: Policy = Policy::Retry(Backoff::seconds(30, 600));
/// Nothing is known against the job or its store.
const MACHINE_EXHAUSTED: Policy = Policy::Release(Backoff::seconds(5, 60));
/// It is read again beside other slow reads, with all the time that reads have.
const STORE_SLOW: Policy = Policy::Park(Backoff::seconds(1, 60));
/// Other jobs find out when it answers.
const STORE_AWAY: Policy = Policy::Park(Backoff::seconds(5, 300));
/// Full, or away. The annotation has cost a generation and is written down: it waits for as long as it takes.
const STREAM_UNAVAILABLE: Policy = Policy::Release(STREAM_UNAVAILABLE_BACKOFF);
pub(crate) const STREAM_UNAVAILABLE_BACKOFF: Backoff = Backoff::seconds(5, 300);
/// Another worker may have more memory free, or another device.
const MODEL_FAILED: Policy = Policy::Retry(Backoff::seconds(1, 60));
const TIMED_OUT: Policy = Policy::Retry(Backoff::seconds(5, 300));
const DAMAGED: Policy = Policy::Retry(Backoff::seconds(1, 60));
const ENGINE_STOPPED: Policy = Policy::Release(Backoff::seconds(1, 1));
const SHUTTING_DOWN: Policy = Policy::Release(Backoff::seconds(0, 0));

impl Fault {
    /// The table.
    pub fn policy(&self) -> Policy {
        use FailureReason as Reason;
        use Policy::{Fail, LeaveToOthers};
        match self {
            Self::Job(_) | Self::WrongSubject { .. } => Fail(Reason::InvalidJob),
            Self::MarkupNotAllowed { .. } => LeaveToOthers(Reason::InvalidPrompt),
            Self::Fetch(error) => fetch_policy(error.kind()),
            Self::BrokenOff(_) => STORE_SLOW,
            Self::StoreAway(_) => STORE_AWAY,
            Self::Picture(error) => picture_policy(error),
            Self::DecoderPanicked(_) => Fail(Reason::UndecodablePicture),
            Self::DecodingTimedOut(_) => LeaveToOthers(Reason::DecodingTimedOut),
            // engine.slots and engine.slot_tokens.
            Self::Engine(EngineError::TooLong { .. } | EngineError::TooWide { .. }) => {
                LeaveToOthers(Reason::InvalidPrompt)
            }
            Self::Engine(error) if error.is_invalid_request() => Fail(Reason::InvalidPrompt),
            Self::Engine(EngineError::Stopped) => ENGINE_STOPPED,
            Self::Engine(_) | Self::AnswersMissing { .. } => MODEL_FAILED,
            Self::Publish(PublishError::TooLarge { .. }) => Fail(Reason::AnnotationTooLarge),
            Self::Publish(PublishError::Unavailable { .. } | PublishError::LeaseExpired) => STREAM_UNAVAILABLE,
            Self::TimedOut(_) => TIMED_OUT,
            Self::Damaged(_) => DAMAGED,
            Self::ShuttingDown => SHUTTING_DOWN,
            Self::NeverSettled { .. } | Self::NotDelivered { .. } | Self::DeliveriesExhausted { .. } => {
                Fail(Reason::RetriesExhausted)
            }
        }
    }

    /// Whether this worker has no engine any more.
    pub(crate) fn is_engine_stopped(&self) -> bool {
        matches!(self, Self::Engine(EngineError::Stopped))
    }

    /// The job's id as far as the fault knows it.
    pub fn job_id(&self) -> Option<&str> {
        match self {
            Self::Job(error) => error.job_id(),
            _ => None,
        }
    }

    /// The sentence with its causes, for a failure record: at most 4 KiB, so that a record always has room for it.
    pub fn message(&self) -> String {
        let mut message = causes(self);
        message.truncate(message.floor_char_boundary(4096));
        message
    }
}

/// The setting to raise if the object is to be read.
fn object_limit(error: &FetchError) -> Option<&'static str> {
    (error.kind() == FetchErrorKind::TooLarge).then_some("s3.max_object_bytes")
}

/// The setting to raise if the picture is to be decoded.
fn picture_limit(error: &ImageError) -> Option<&'static str> {
    Some(match error.exceeded_limit()? {
        DecodeLimit::Pixels => "worker.max_picture_pixels",
        DecodeLimit::Side => "worker.max_picture_side",
        DecodeLimit::Memory => "worker.max_decode_bytes",
    })
}

fn raise(setting: Option<&str>) -> String {
    setting.map_or_else(String::new, |setting| format!(": raise {setting} if it is to be read"))
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
        // s3.allow and s3.max_object_bytes.
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
        ImageError::UnknownFormat | ImageError::UnsupportedFormat { .. } | ImageError::Unsupported { .. } => {
            Policy::Fail(Reason::UnsupportedPicture)
        }
        ImageError::Empty | ImageError::Undecodable { .. } => Policy::Fail(Reason::UndecodablePicture),
        // worker.max_picture_pixels and its like.
        ImageError::TooManyPixels { .. } | ImageError::SideTooLong { .. } | ImageError::TooMuchMemory { .. } => {
            Policy::LeaveToOthers(Reason::PictureTooLarge)
        }
        ImageError::TooMuchMetadata { .. } | ImageError::TooManyParts { .. } => Policy::Fail(Reason::PictureTooLarge),
        ImageError::TimedOut => Policy::LeaveToOthers(Reason::DecodingTimedOut),
    }
}

/// A delay between three quarters and five quarters of `delay`, but at most `longest`, by `chance` in 0..1: jobs that
/// failed together must not come back together.
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
            Fault::AnswersMissing { answers: 1, tasks: 2 },
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
            (Fault::NeverSettled { attempts: 3, last_error: None }, FailureReason::RetriesExhausted),
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
            Fault::ShuttingDown,
            unavailable().into(),
            PublishError::LeaseExpired.into(),
            fetch(FetchErrorKind::Exhausted),
        ] {
            assert!(matches!(fault.policy(), Policy::Release(_)), "{fault:?}");
        }
        for fault in [Fault::BrokenOff(BrokenOff::PlaceNeeded), Fault::BrokenOff(BrokenOff::ShareUsed)] {
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
