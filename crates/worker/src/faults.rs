//! What goes wrong with jobs, and the one table that says what follows from it.

use std::time::Duration;

use engine::EngineError;
use kosmos2::processor::image::ImageError;
use protocol::job::JobError;
use protocol::v1::FailureReason;

use crate::fetch::{FetchError, FetchErrorKind};
use crate::publish::PublishError;

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
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The picture was not decoded.
    #[error(transparent)]
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
    /// Handed out more often than allowed without anybody saying how it ended.
    #[error(
        "the job was handed out {0} times and no worker came to an end with it: it may have crashed them, try it alone"
    )]
    NeverSettled(u64),
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
    /// It is this worker's own settings that forbid it: leave it to other workers for
    /// `worker.release_own_limits_for` ([`crate::releases`]), then publish a failure with this reason.
    Release(FailureReason),
    /// It will not pass: publish a failure with this reason.
    DeadLetter(FailureReason),
}

/// What is done about a job at this delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Hand it out again after this delay.
    Retry(Duration),
    /// Leave it to other workers, and publish a failure with this reason once it has been left to them for long enough.
    Release(FailureReason),
    /// Publish a failure with this reason, then take the job off the queue.
    DeadLetter(FailureReason),
}

/// The table.
pub fn course(class: FaultClass) -> Course {
    use Course::{DeadLetter, Release};
    use FailureReason as Reason;
    use FaultClass as Class;
    use FetchErrorKind as Kind;
    match class {
        Class::InvalidJob => DeadLetter(Reason::InvalidJob),
        Class::InvalidPrompt => DeadLetter(Reason::InvalidPrompt),
        Class::Fetch(Kind::NotFound | Kind::BadAddress) => DeadLetter(Reason::ObjectNotFound),
        Class::Fetch(Kind::Denied) => DeadLetter(Reason::ObjectForbidden),
        Class::Fetch(Kind::Changed) => DeadLetter(Reason::ObjectChanged),
        Class::UnsupportedPicture => DeadLetter(Reason::UnsupportedPicture),
        Class::UndecodablePicture => DeadLetter(Reason::UndecodablePicture),
        Class::PictureTooLarge => DeadLetter(Reason::PictureTooLarge),
        Class::AnnotationTooLarge => DeadLetter(Reason::AnnotationTooLarge),
        Class::NeverSettled => DeadLetter(Reason::RetriesExhausted),
        // s3.allow, s3.max_object_bytes, worker.allow_raw_prompts, engine.slots and engine.slot_tokens,
        // worker.max_picture_pixels and its like, worker.decode_timeout: another worker's may be wider.
        Class::Fetch(Kind::NotAllowed) => Release(Reason::ObjectForbidden),
        Class::Fetch(Kind::TooLarge) => Release(Reason::ObjectTooLarge),
        Class::MarkupNotAllowed | Class::PromptAboveLimit => Release(Reason::InvalidPrompt),
        Class::PictureAboveLimit => Release(Reason::PictureTooLarge),
        Class::DecodingTimedOut => Release(Reason::DecodingTimedOut),
        // Ten deliveries at these delays outlast an outage of a quarter of an hour.
        Class::Fetch(Kind::Unavailable) => retry(2, 300),
        Class::Fetch(Kind::Throttled) => retry(5, 300),
        // Until somebody mends the settings; each try would fail in the same way for every job.
        Class::Fetch(Kind::Misconfigured) => retry(30, 600),
        // Full, or away. The annotation has cost a generation and is written down: it waits for as long as it takes.
        Class::StreamUnavailable => hand_back(5, 300),
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

const fn hand_back(first_seconds: u64, longest_seconds: u64) -> Course {
    Course::HandBack { first: Duration::from_secs(first_seconds), longest: Duration::from_secs(longest_seconds) }
}

/// What to do about a fault of `class` at delivery number `attempt` (from 1) of at most `max_deliveries`.
pub fn decide(class: FaultClass, attempt: u64, max_deliveries: u64) -> Decision {
    match course(class) {
        Course::DeadLetter(reason) => Decision::DeadLetter(reason),
        Course::Release(reason) => Decision::Release(reason),
        Course::Retry { .. } if attempt >= max_deliveries => Decision::DeadLetter(FailureReason::RetriesExhausted),
        Course::Retry { first, longest } | Course::HandBack { first, longest } => {
            let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
            let delay = 2u32.checked_pow(doublings).and_then(|factor| first.checked_mul(factor));
            Decision::Retry(delay.unwrap_or(longest).min(longest))
        }
    }
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
            Self::Picture(error) => picture_class(error),
            Self::DecoderPanicked(_) => FaultClass::UndecodablePicture,
            Self::DecodingTimedOut(_) => FaultClass::DecodingTimedOut,
            Self::Engine(EngineError::TooLong { .. } | EngineError::TooWide { .. }) => FaultClass::PromptAboveLimit,
            Self::Engine(error) if error.is_the_requests_own() => FaultClass::InvalidPrompt,
            Self::Engine(EngineError::Stopped) => FaultClass::EngineStopped,
            Self::Engine(_) | Self::AnswersMissing { .. } => FaultClass::Model,
            Self::Publish(PublishError::TooLarge { .. }) => FaultClass::AnnotationTooLarge,
            Self::Publish(PublishError::Unavailable { .. }) => FaultClass::StreamUnavailable,
            Self::TimedOut(_) => FaultClass::TimedOut,
            Self::Damaged(_) => FaultClass::DamagedPicture,
            Self::ShuttingDown => FaultClass::ShuttingDown,
            Self::NeverSettled(_) => FaultClass::NeverSettled,
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
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(next) = cause {
            let sentence = next.to_string();
            // Wrapping errors often repeat what they wrap.
            if !message.contains(&sentence) {
                message.push_str(": ");
                message.push_str(&sentence);
            }
            cause = next.source();
        }
        message.truncate(message.floor_char_boundary(4096));
        message
    }
}

fn picture_class(error: &ImageError) -> FaultClass {
    match error {
        ImageError::UnknownFormat => FaultClass::UnsupportedPicture,
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

    #[test]
    fn a_fault_that_could_pass_is_retried_after_ever_longer_delays() {
        let delays: Vec<u64> = (1..=9)
            .map(|attempt| match decide(UNAVAILABLE, attempt, 10) {
                Decision::Retry(delay) => delay.as_secs(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(delays, [2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(decide(UNAVAILABLE, 4_000_000_000, u64::MAX), Decision::Retry(Duration::from_secs(300)));
    }

    #[test]
    fn a_fault_that_could_pass_is_given_up_at_the_last_allowed_delivery() {
        assert_eq!(decide(UNAVAILABLE, 10, 10), Decision::DeadLetter(FailureReason::RetriesExhausted));
        assert_eq!(decide(FaultClass::Model, 1, 1), Decision::DeadLetter(FailureReason::RetriesExhausted));
    }

    #[test]
    fn a_fault_that_will_not_pass_is_given_up_at_once() {
        let missing = FaultClass::Fetch(FetchErrorKind::NotFound);
        assert_eq!(decide(missing, 1, 10), Decision::DeadLetter(FailureReason::ObjectNotFound));
        assert_eq!(decide(FaultClass::InvalidJob, 1, 10), Decision::DeadLetter(FailureReason::InvalidJob));
    }

    #[test]
    fn what_a_workers_own_settings_forbid_is_left_to_others_however_often_it_was_handed_out() {
        for (class, reason) in [
            (FaultClass::Fetch(FetchErrorKind::NotAllowed), FailureReason::ObjectForbidden),
            (FaultClass::Fetch(FetchErrorKind::TooLarge), FailureReason::ObjectTooLarge),
            (FaultClass::MarkupNotAllowed, FailureReason::InvalidPrompt),
            (FaultClass::PromptAboveLimit, FailureReason::InvalidPrompt),
            (FaultClass::PictureAboveLimit, FailureReason::PictureTooLarge),
            (FaultClass::DecodingTimedOut, FailureReason::DecodingTimedOut),
        ] {
            assert_eq!(decide(class, 1, 10), Decision::Release(reason), "{class:?}");
            assert_eq!(decide(class, 10, 10), Decision::Release(reason), "{class:?}");
        }
        let denied = FaultClass::Fetch(FetchErrorKind::Denied);
        assert_eq!(decide(denied, 1, 10), Decision::DeadLetter(FailureReason::ObjectForbidden), "by the store, to all");
    }

    #[test]
    fn what_is_not_the_jobs_fault_never_costs_it_its_life() {
        for class in [FaultClass::EngineStopped, FaultClass::ShuttingDown, FaultClass::StreamUnavailable] {
            assert!(matches!(decide(class, 1000, 10), Decision::Retry(_)), "{class:?}");
        }
        assert_eq!(decide(FaultClass::ShuttingDown, 7, 10), Decision::Retry(Duration::ZERO));
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
        let cause =
            FetchError::new(FetchErrorKind::Unavailable, "s3://a/b could not be read").with_source("broken pipe");
        assert_eq!(Fault::from(cause).message(), "s3://a/b could not be read: broken pipe");
        let long = Fault::DecoderPanicked("ä".repeat(5000));
        assert!(long.message().len() <= 4096);
    }
}
