//! What goes wrong with jobs, and the one table that says what follows from it.

use std::time::Duration;

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

/// The classes of faults that the table tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultClass {
    /// Unreadable, or against the rules.
    InvalidJob,
    /// A prompt the model cannot be fed.
    InvalidPrompt,
    /// A prompt with markup of its own, which this worker takes none of.
    MarkupNotAllowed,
    /// A prompt for which this worker's engine has too few or too short slots.
    PromptAboveLimit,
    /// Reading the object.
    Fetch(FetchErrorKind),
    /// The store is slow for so many jobs that this one is to be read apart from new ones.
    StoreSlow,
    /// The store does not answer any job at present.
    StoreAway,
    /// No kind of picture that can be read.
    UnsupportedPicture,
    /// A damaged picture.
    UndecodablePicture,
    /// Too much of something that decoding costs, for every worker.
    PictureTooLarge,
    /// Too many pixels or too much memory for this worker's settings.
    PictureAboveLimit,
    /// Decoding took too long.
    DecodingTimedOut,
    /// The model failed on this job.
    Model,
    /// The engine has ended: this worker is done for, the job is not.
    EngineStopped,
    /// Too many bytes to publish.
    AnnotationTooLarge,
    /// The stream did not take the annotation.
    StreamUnavailable,
    /// Too slow.
    TimedOut,
    /// Damaged between store and worker, as far as can be told.
    DamagedPicture,
    /// The worker ends.
    ShuttingDown,
    /// Handed out too often.
    NeverSettled,
}

/// What follows from a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It could pass: hand the job out again after `first`, then after twice as long each time, at most after
    /// `longest`.
    Retry {
        /// Delay after the first delivery.
        first: Duration,
        /// Longest delay.
        longest: Duration,
    },
    /// It is not the job's fault, so it never ends in a failure: hand the job out again, with delays as for `Retry`.
    HandBack {
        /// Delay after the first delivery.
        first: Duration,
        /// Longest delay.
        longest: Duration,
    },
    /// As `HandBack`, but it concerns some jobs and not all: let it wait apart from new jobs.
    Park {
        /// Delay after the first delivery.
        first: Duration,
        /// Longest delay.
        longest: Duration,
    },
    /// It is this worker's own settings that forbid it: leave it to other workers for
    /// `worker.release_own_limits_for` (the module `releases`), then publish a failure with this reason.
    LeaveToOthers(FailureReason),
    /// It will not pass: publish a failure with this reason.
    DeadLetter(FailureReason),
}

/// What is done about a job at this delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The attempt failed: try again after this delay.
    Retry(Duration),
    /// The attempt does not count: deliver the job again after this delay.
    Release(Duration),
    /// The attempt does not count: deliver the job again after this delay, apart from new jobs.
    Park(Duration),
    /// Leave it to other workers, and publish a failure with this reason once it has been left to them for long enough.
    LeaveToOthers(FailureReason),
    /// Publish a failure with this reason, then take the job off the queue.
    DeadLetter(FailureReason),
}

/// The table.
pub fn course(class: FaultClass) -> Course {
    use Course::{DeadLetter, LeaveToOthers};
    use FailureReason as Reason;
    use FaultClass as Class;
    use FetchErrorKind as Kind;
    match class {
        Class::InvalidJob => DeadLetter(Reason::InvalidJob),
        Class::InvalidPrompt => DeadLetter(Reason::InvalidPrompt),
        Class::Fetch(Kind::NotFound | Kind::BadAddress) => DeadLetter(Reason::ObjectNotFound),
        Class::Fetch(Kind::Denied | Kind::Encrypted) => DeadLetter(Reason::ObjectForbidden),
        Class::Fetch(Kind::Archived) => DeadLetter(Reason::ObjectArchived),
        Class::Fetch(Kind::EncodingUnsupported) => DeadLetter(Reason::UnsupportedPicture),
        Class::Fetch(Kind::EncodingDamaged) => DeadLetter(Reason::UndecodablePicture),
        Class::Fetch(Kind::Changed) => DeadLetter(Reason::ObjectChanged),
        Class::UnsupportedPicture => DeadLetter(Reason::UnsupportedPicture),
        Class::UndecodablePicture => DeadLetter(Reason::UndecodablePicture),
        Class::PictureTooLarge => DeadLetter(Reason::PictureTooLarge),
        Class::AnnotationTooLarge => DeadLetter(Reason::AnnotationTooLarge),
        Class::NeverSettled => DeadLetter(Reason::RetriesExhausted),
        // s3.allow, s3.max_object_bytes, worker.allow_raw_prompts, engine.slots and engine.slot_tokens,
        // worker.max_picture_pixels and its like, worker.decode_timeout: another worker's may be wider.
        Class::Fetch(Kind::NotAllowed) => LeaveToOthers(Reason::ObjectForbidden),
        Class::Fetch(Kind::TooLarge) => LeaveToOthers(Reason::ObjectTooLarge),
        Class::MarkupNotAllowed | Class::PromptAboveLimit => LeaveToOthers(Reason::InvalidPrompt),
        Class::PictureAboveLimit => LeaveToOthers(Reason::PictureTooLarge),
        Class::DecodingTimedOut => LeaveToOthers(Reason::DecodingTimedOut),
        // Ten deliveries at these delays outlast an outage of a quarter of an hour.
        Class::Fetch(Kind::Unavailable) => retry(2, 300),
        Class::Fetch(Kind::Throttled) => retry(5, 300),
        // It is read again beside other slow ones, with all the time that reads have.
        Class::StoreSlow => park(1, 60),
        // Other jobs find out when it answers.
        Class::StoreAway => park(5, 300),
        // Until somebody mends the settings; each try would fail in the same way for every job.
        Class::Fetch(Kind::Misconfigured) => retry(30, 600),
        // Full, or away. The annotation has cost a generation and is written down: it waits for as long as it takes.
        Class::StreamUnavailable => hand_back(5, 300),
        // Nothing is known against the job or its store.
        Class::Fetch(Kind::Exhausted) => hand_back(5, 60),
        // Another worker may have more memory free, or another device.
        Class::Model => retry(1, 60),
        Class::TimedOut => retry(5, 300),
        Class::DamagedPicture => retry(1, 60),
        Class::EngineStopped => hand_back(1, 1),
        Class::ShuttingDown => hand_back(0, 0),
    }
}

const fn retry(first_seconds: u64, longest_seconds: u64) -> Course {
    Course::Retry { first: Duration::from_secs(first_seconds), longest: Duration::from_secs(longest_seconds) }
}

const fn park(first_seconds: u64, longest_seconds: u64) -> Course {
    Course::Park { first: Duration::from_secs(first_seconds), longest: Duration::from_secs(longest_seconds) }
}

const fn hand_back(first_seconds: u64, longest_seconds: u64) -> Course {
    Course::HandBack { first: Duration::from_secs(first_seconds), longest: Duration::from_secs(longest_seconds) }
}

/// How often a job was tried, this time included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// Attempts that failed or never ended, and this one.
    pub attempts: u64,
    /// Deliveries that the server counts: those that were released as well.
    pub deliveries: u64,
}

/// What to do about a fault of `class`, with at most `max_attempts`.
pub fn decide(class: FaultClass, tries: Tries, max_attempts: u64) -> Decision {
    match course(class) {
        Course::DeadLetter(reason) => Decision::DeadLetter(reason),
        Course::LeaveToOthers(reason) => Decision::LeaveToOthers(reason),
        Course::Retry { .. } if tries.attempts >= max_attempts => Decision::DeadLetter(FailureReason::RetriesExhausted),
        Course::Retry { first, longest } => Decision::Retry(back_off(first, longest, tries.attempts)),
        Course::HandBack { first, longest } => Decision::Release(back_off(first, longest, tries.deliveries)),
        Course::Park { first, longest } => Decision::Park(back_off(first, longest, tries.deliveries)),
    }
}

/// The delay before a job is delivered again that is released for a fault of `class`; `None` if the table says anything
/// else.
pub fn release_delay(class: FaultClass, deliveries: u64) -> Option<Duration> {
    match course(class) {
        Course::HandBack { first, longest } => Some(back_off(first, longest, deliveries)),
        Course::Retry { .. } | Course::Park { .. } | Course::LeaveToOthers(_) | Course::DeadLetter(_) => None,
    }
}

/// `first`, doubled with each try after the first, up to `longest`.
fn back_off(first: Duration, longest: Duration, tries: u64) -> Duration {
    let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(u32::MAX);
    let delay = 2u32.checked_pow(doublings).and_then(|factor| first.checked_mul(factor));
    delay.unwrap_or(longest).min(longest)
}

/// A delay between three quarters and five quarters of `delay`, but at most `longest`, by `chance` in 0..1: jobs that
/// failed together must not come back together.
pub fn spread(delay: Duration, longest: Duration, chance: f64) -> Duration {
    delay.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0).min(longest)
}

impl Fault {
    /// The row of the table.
    pub fn class(&self) -> FaultClass {
        match self {
            Self::Job(_) | Self::WrongSubject { .. } => FaultClass::InvalidJob,
            Self::MarkupNotAllowed { .. } => FaultClass::MarkupNotAllowed,
            Self::Fetch(error) => FaultClass::Fetch(error.kind()),
            Self::BrokenOff(_) => FaultClass::StoreSlow,
            Self::StoreAway(_) => FaultClass::StoreAway,
            Self::Picture(error) => picture_class(error),
            Self::DecoderPanicked(_) => FaultClass::UndecodablePicture,
            Self::DecodingTimedOut(_) => FaultClass::DecodingTimedOut,
            Self::Engine(EngineError::TooLong { .. } | EngineError::TooWide { .. }) => FaultClass::PromptAboveLimit,
            Self::Engine(error) if error.is_the_requests_own() => FaultClass::InvalidPrompt,
            Self::Engine(EngineError::Stopped) => FaultClass::EngineStopped,
            Self::Engine(_) | Self::AnswersMissing { .. } => FaultClass::Model,
            Self::Publish(PublishError::TooLarge { .. }) => FaultClass::AnnotationTooLarge,
            Self::Publish(PublishError::Unavailable { .. } | PublishError::Late) => FaultClass::StreamUnavailable,
            Self::TimedOut(_) => FaultClass::TimedOut,
            Self::Damaged(_) => FaultClass::DamagedPicture,
            Self::ShuttingDown => FaultClass::ShuttingDown,
            Self::NeverSettled { .. } | Self::NotDelivered { .. } | Self::DeliveriesExhausted { .. } => {
                FaultClass::NeverSettled
            }
        }
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

fn picture_class(error: &ImageError) -> FaultClass {
    match error {
        ImageError::UnknownFormat | ImageError::UnsupportedFormat { .. } | ImageError::Unsupported { .. } => {
            FaultClass::UnsupportedPicture
        }
        ImageError::Empty | ImageError::Undecodable { .. } => FaultClass::UndecodablePicture,
        ImageError::TooManyPixels { .. } | ImageError::SideTooLong { .. } | ImageError::TooMuchMemory { .. } => {
            FaultClass::PictureAboveLimit
        }
        ImageError::TooMuchMetadata { .. } | ImageError::TooManyParts { .. } => FaultClass::PictureTooLarge,
        ImageError::TimedOut => FaultClass::DecodingTimedOut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNAVAILABLE: FaultClass = FaultClass::Fetch(FetchErrorKind::Unavailable);

    fn failed(attempts: u64) -> Tries {
        Tries { attempts, deliveries: attempts }
    }

    #[test]
    fn a_fault_that_could_pass_is_retried_after_ever_longer_delays() {
        let delays: Vec<u64> = (1..=9)
            .map(|attempt| match decide(UNAVAILABLE, failed(attempt), 10) {
                Decision::Retry(delay) => delay.as_secs(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(delays, [2, 4, 8, 16, 32, 64, 128, 256, 300]);
        let longest = Decision::Retry(Duration::from_secs(300));
        assert_eq!(decide(UNAVAILABLE, failed(4_000_000_000), u64::MAX), longest);
    }

    #[test]
    fn a_fault_that_could_pass_is_given_up_at_the_last_allowed_attempt() {
        let exhausted = Decision::DeadLetter(FailureReason::RetriesExhausted);
        assert_eq!(decide(UNAVAILABLE, failed(10), 10), exhausted);
        assert_eq!(decide(FaultClass::Model, failed(1), 1), exhausted);
        let released_often = Tries { attempts: 9, deliveries: 5000 };
        assert!(matches!(decide(UNAVAILABLE, released_often, 10), Decision::Retry(_)), "only attempts count");
    }

    #[test]
    fn a_fault_that_will_not_pass_is_given_up_at_once() {
        let missing = FaultClass::Fetch(FetchErrorKind::NotFound);
        assert_eq!(decide(missing, failed(1), 10), Decision::DeadLetter(FailureReason::ObjectNotFound));
        assert_eq!(decide(FaultClass::InvalidJob, failed(1), 10), Decision::DeadLetter(FailureReason::InvalidJob));
    }

    #[test]
    fn what_a_workers_own_settings_forbid_is_left_to_others_with_its_reason() {
        for (class, reason) in [
            (FaultClass::Fetch(FetchErrorKind::NotAllowed), FailureReason::ObjectForbidden),
            (FaultClass::Fetch(FetchErrorKind::TooLarge), FailureReason::ObjectTooLarge),
            (FaultClass::MarkupNotAllowed, FailureReason::InvalidPrompt),
            (FaultClass::PromptAboveLimit, FailureReason::InvalidPrompt),
            (FaultClass::PictureAboveLimit, FailureReason::PictureTooLarge),
            (FaultClass::DecodingTimedOut, FailureReason::DecodingTimedOut),
        ] {
            assert_eq!(decide(class, failed(1), 10), Decision::LeaveToOthers(reason), "{class:?}");
        }
        let denied = FaultClass::Fetch(FetchErrorKind::Denied);
        assert_eq!(
            decide(denied, failed(1), 10),
            Decision::DeadLetter(FailureReason::ObjectForbidden),
            "by the store, to all"
        );
    }

    #[test]
    fn what_is_not_the_jobs_fault_never_ends_it() {
        for class in [FaultClass::EngineStopped, FaultClass::ShuttingDown, FaultClass::StreamUnavailable] {
            assert!(matches!(decide(class, failed(1000), 10), Decision::Release(_)), "{class:?}");
        }
        assert_eq!(decide(FaultClass::ShuttingDown, failed(7), 10), Decision::Release(Duration::ZERO));
    }

    #[test]
    fn what_a_store_does_to_many_jobs_ends_none_and_keeps_them_apart_from_new_ones() {
        for class in [FaultClass::StoreSlow, FaultClass::StoreAway] {
            assert!(matches!(decide(class, failed(1000), 10), Decision::Park(_)), "{class:?}");
        }
    }

    #[test]
    fn delays_are_spread_by_a_quarter_to_both_sides_and_never_beyond_the_longest() {
        let (delay, longest) = (Duration::from_secs(4), Duration::from_millis(4500));
        assert_eq!(spread(delay, longest, 0.0), Duration::from_secs(3));
        assert_eq!(spread(delay, longest, 0.5), delay);
        assert_eq!(spread(delay, longest, 1.0), longest);
    }

    #[test]
    fn a_message_holds_the_causes_once_and_never_grows_without_bound() {
        let cause = FetchError::new(FetchErrorKind::Unavailable, "s3://a/b could not be read").because("broken pipe");
        assert_eq!(Fault::from(cause).message(), "s3://a/b could not be read: broken pipe");
        let long = Fault::DecoderPanicked("ä".repeat(5000));
        assert!(long.message().len() <= 4096);
    }
}
