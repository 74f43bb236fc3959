//! The values of attributes, as types: a caller names what happened and cannot misspell it.

use wire::v1::FailureReason;

/// An enum whose values are words, and the list of all words, from one listing.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
        }

        impl $name {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];
            /// The words of all values.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// Its value as an attribute.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)+
                }
            }
        }
    };
}

pub(crate) use words;

/// How a delivery was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobOutcome {
    /// The job's annotation was published.
    Annotated,
    /// The job's outcome was in its stream already, from an earlier delivery.
    Duplicate,
    /// The job's failure was published.
    Failed(Reason),
    /// The attempt counts, and the job is attempted again after a delay.
    Retried(Reason),
    /// The job waits in the stream of retries, and the attempt does not count.
    Parked(Reason),
    /// The job went back to the queue, and the attempt does not count.
    Released(Reason),
    /// This worker's settings forbid the job: it is left to other workers.
    LeftToOthers(Reason),
}

impl JobOutcome {
    /// The words of all outcomes.
    pub const WORDS: &'static [&'static str] =
        &["annotated", "duplicate", "failed", "retried", "parked", "released", "left_to_others"];

    /// The outcomes without a reason.
    pub fn without_reason() -> impl Iterator<Item = Self> {
        [Self::Annotated, Self::Duplicate].into_iter()
    }

    /// Failures and retries with each reason that they can have.
    pub fn failed_and_retried() -> impl Iterator<Item = Self> {
        // The numbers of the enum in `proto/` have no gaps.
        let reasons = (1..).map_while(|number| FailureReason::try_from(number).ok());
        let failed = reasons.map(|reason| Self::Failed(reason.into()));
        failed.chain(Reason::ALL.iter().copied().map(Self::Retried))
    }

    /// Its value as an attribute.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Annotated => "annotated",
            Self::Duplicate => "duplicate",
            Self::Failed(_) => "failed",
            Self::Retried(_) => "retried",
            Self::Parked(_) => "parked",
            Self::Released(_) => "released",
            Self::LeftToOthers(_) => "left_to_others",
        }
    }

    /// Why it is not an annotation.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Annotated | Self::Duplicate => None,
            Self::Failed(reason)
            | Self::Retried(reason)
            | Self::Parked(reason)
            | Self::Released(reason)
            | Self::LeftToOthers(reason) => Some(reason),
        }
    }

    /// Whether the job is at its end, and not delivered again.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Annotated | Self::Duplicate | Self::Failed(_))
    }
}

words! {
    /// Why a job failed or was sent back.
    Reason {
        /// The job cannot be read or breaks rules.
        InvalidJob = "invalid_job",
        /// A prompt is not valid, or does not fit this worker.
        InvalidPrompt = "invalid_prompt",
        /// The object is not there.
        ObjectNotFound = "object_not_found",
        /// The object must not be read.
        ObjectForbidden = "object_forbidden",
        /// The object is another one than the job names.
        ObjectChanged = "object_changed",
        /// The object has too many bytes.
        ObjectTooLarge = "object_too_large",
        /// The object is archived.
        ObjectArchived = "object_archived",
        /// The picture's format is not supported.
        UnsupportedPicture = "unsupported_picture",
        /// The picture is broken.
        UndecodablePicture = "undecodable_picture",
        /// The picture has too many pixels.
        PictureTooLarge = "picture_too_large",
        /// The picture took too long to decode.
        DecodingTimedOut = "decoding_timed_out",
        /// The annotation has too many bytes.
        AnnotationTooLarge = "annotation_too_large",
        /// No attempt is left.
        RetriesExhausted = "retries_exhausted",
        /// A fault of the program.
        Internal = "internal",
        /// The store did not answer, or with an error of its own.
        StoreUnavailable = "store_unavailable",
        /// The store asked for fewer requests.
        StoreThrottled = "store_throttled",
        /// The store refuses this worker's settings.
        StoreMisconfigured = "store_misconfigured",
        /// The read was slow and was broken off.
        StoreSlow = "store_slow",
        /// The circuit breaker holds jobs of this store back.
        StoreAway = "store_away",
        /// The bytes read are not those that the store keeps.
        ObjectDamaged = "object_damaged",
        /// This machine has no memory, file descriptors or the like left.
        MachineExhausted = "machine_exhausted",
        /// A stream is full or does not answer.
        StreamUnavailable = "stream_unavailable",
        /// The model failed on the request.
        ModelFailed = "model_failed",
        /// The engine has stopped.
        EngineStopped = "engine_stopped",
        /// The engine makes no progress.
        EngineStalled = "engine_stalled",
        /// The job took longer than `worker.job_timeout`.
        TimedOut = "timed_out",
        /// The worker is shutting down.
        ShuttingDown = "shutting_down",
    }
}

impl From<FailureReason> for Reason {
    fn from(reason: FailureReason) -> Self {
        match reason {
            FailureReason::InvalidJob => Self::InvalidJob,
            FailureReason::InvalidPrompt => Self::InvalidPrompt,
            FailureReason::ObjectNotFound => Self::ObjectNotFound,
            FailureReason::ObjectForbidden => Self::ObjectForbidden,
            FailureReason::ObjectChanged => Self::ObjectChanged,
            FailureReason::ObjectTooLarge => Self::ObjectTooLarge,
            FailureReason::ObjectArchived => Self::ObjectArchived,
            FailureReason::UnsupportedPicture => Self::UnsupportedPicture,
            FailureReason::UndecodablePicture => Self::UndecodablePicture,
            FailureReason::PictureTooLarge => Self::PictureTooLarge,
            FailureReason::DecodingTimedOut => Self::DecodingTimedOut,
            FailureReason::AnnotationTooLarge => Self::AnnotationTooLarge,
            FailureReason::RetriesExhausted => Self::RetriesExhausted,
            FailureReason::Internal | FailureReason::Unspecified => Self::Internal,
        }
    }
}

words! {
    /// A stage of a job, in the order in which jobs go through them.
    Stage {
        /// Reading the object, and waiting for the byte budget.
        Fetch = "fetch",
        /// Decoding and scaling the picture, and waiting for a thread and memory.
        Decode = "decode",
        /// Waiting for the engine.
        Queue = "queue",
        /// The vision tower.
        Vision = "vision",
        /// From then until the first token of the first prompt.
        Prefill = "prefill",
        /// From then until the last token of the last prompt.
        Generate = "generate",
        /// Publishing the annotation or failure, once it is recorded as the outcome.
        Publish = "publish",
        /// Having the end of the delivery confirmed.
        Acknowledge = "acknowledge",
    }
}

words! {
    /// What a batch goes through.
    BatchPass {
        /// The vision tower.
        Vision = "vision",
        /// The decoder.
        Decoder = "decoder",
    }
}

words! {
    /// How reading an object ended.
    ReadResult {
        /// All of it was read.
        Ok = "ok",
        /// It is not there, or is another one.
        NotFound = "not_found",
        /// It must not be read.
        Forbidden = "forbidden",
        /// It has too many bytes.
        TooLarge = "too_large",
        /// The store asked for fewer requests.
        Throttled = "throttled",
        /// The store did not answer in time, or with an error of its own.
        Unavailable = "unavailable",
        /// It was slow and was broken off.
        BrokenOff = "broken_off",
        /// Anything else.
        Other = "other",
    }
}

words! {
    /// What a connection goes to.
    Server {
        /// The NATS server.
        Nats = "nats",
    }
}

words! {
    /// Subjects that messages come from or go to.
    Destination {
        /// Jobs.
        Jobs = "groundling.jobs.{dataset}",
        /// Copies of jobs that wait for their next attempt.
        Retries = "groundling.retries.{dataset}.{job}",
        /// Outcomes.
        Outcomes = "groundling.outcomes.{job}",
        /// Annotations.
        Annotations = "groundling.annotations.{dataset}",
        /// Failures.
        Failed = "groundling.failed.{dataset}.{reason}",
    }
}

words! {
    /// The acknowledgement of a delivery.
    Acknowledgement {
        /// The job is done.
        Ack = "ack",
        /// The job is to be delivered again.
        Nack = "nack",
        /// The job is never to be delivered again.
        Term = "term",
    }
}

words! {
    /// Why a messaging operation failed.
    MessagingError {
        /// No answer came in time.
        Timeout = "timeout",
        /// There is no connection, no stream, or no leader.
        Unavailable = "unavailable",
        /// The stream is full.
        StreamFull = "stream_full",
        /// The message has too many bytes.
        TooLarge = "too_large",
        /// The job failed, and its failure was published.
        JobFailed = "job_failed",
        /// The job was sent back.
        SentBack = "sent_back",
        /// Anything else.
        Other = "_OTHER",
    }
}

words! {
    /// Why a request to the engine has no answer.
    RequestError {
        /// The request is not valid or does not fit a slot.
        Invalid = "invalid",
        /// The model failed or panicked.
        Model = "model",
        /// Its deadline passed, or nobody waited for it any more.
        Cancelled = "cancelled",
        /// The engine has stopped.
        Stopped = "stopped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_the_words_of_their_list() {
        let reason = Reason::Internal;
        let all = [
            JobOutcome::Annotated,
            JobOutcome::Duplicate,
            JobOutcome::Failed(reason),
            JobOutcome::Retried(reason),
            JobOutcome::Parked(reason),
            JobOutcome::Released(reason),
            JobOutcome::LeftToOthers(reason),
        ];
        assert_eq!(all.map(JobOutcome::as_str), JobOutcome::WORDS);
        assert_eq!(all.map(|outcome| outcome.reason().is_some()), [false, false, true, true, true, true, true]);
        assert_eq!(all.map(JobOutcome::is_final), [true, true, true, false, false, false, false]);
    }

    #[test]
    fn failure_reasons_keep_their_names() {
        for number in 1..=14 {
            let reason = FailureReason::try_from(number).unwrap();
            let name = reason.as_str_name().trim_start_matches("FAILURE_REASON_").to_lowercase();
            assert_eq!(Reason::from(reason).as_str(), name);
        }
    }
}
