//! Plain data in and out.

use std::time::{Duration, Instant};

use kosmos2::ModelError;
use kosmos2::options::GroundedText;
use kosmos2::processor::image::PixelValues;
use kosmos2::{AnnotateError, Query};

/// One picture and what is asked about it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The preprocessed picture.
    pub pixels: PixelValues,
    /// What is asked. The picture is seen once for all of it: one pass of the vision tower, and one of the decoder over
    /// the tokens that the prompts begin with in common.
    pub queries: Vec<Query>,
    /// Given up at this moment, wherever it is by then.
    pub deadline: Option<Instant>,
}

/// What came of a [`Request`].
#[derive(Debug, Clone)]
pub struct Response {
    /// One answer for each query, in the request's order.
    pub texts: Vec<GroundedText>,
    /// Where the time went.
    pub timings: Timings,
}

/// Time that passed for one request, by stage. The device's steps serve many requests at once, so these are times
/// waited, not shares of the device's work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From submission to the start of work on the device.
    pub queued: Duration,
    /// Vision tower and projection.
    pub vision: Duration,
    /// From then until the first token of the first prompt.
    pub prefill: Duration,
    /// From then until the last token of the last prompt.
    pub decode: Duration,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A prompt, its boxes or an option are not valid, or the model failed on this request.
    #[error(transparent)]
    Annotate(#[from] AnnotateError),
    /// A prompt and its answer would not fit a slot: it will fail every time.
    #[error(
        "the prompt and its answer could take {tokens} tokens, but a slot holds {slot_tokens}; ask for fewer new tokens, or raise engine.slot_tokens"
    )]
    TooLong {
        /// Tokens of the prompt and its longest answer.
        tokens: usize,
        /// Tokens of a slot.
        slot_tokens: usize,
    },
    /// An ask needs more slots at once than there are: it will fail every time.
    #[error("{needed} slots are needed at once, but there are {slots}; ask for fewer beams, or raise engine.slots")]
    TooWide {
        /// Slots of the query.
        needed: usize,
        /// Slots there are.
        slots: usize,
    },
    /// The request's deadline passed.
    #[error("the request was not answered by its deadline")]
    DeadlinePassed,
    /// The model panicked on this request; the engine goes on.
    #[error("the model panicked: {0}")]
    Panicked(String),
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}

impl EngineError {
    /// Whether the request itself is at fault, so that it would fail every time and on every worker set up alike.
    pub fn is_the_requests_own(&self) -> bool {
        match self {
            Self::TooLong { .. } | Self::TooWide { .. } | Self::Annotate(AnnotateError::Prompt(_)) => true,
            Self::Annotate(AnnotateError::Model(error)) => matches!(
                error,
                ModelError::Options(_)
                    | ModelError::EmptyPrompt
                    | ModelError::Placeholders { .. }
                    | ModelError::UnknownToken { .. }
            ),
            Self::DeadlinePassed | Self::Panicked(_) | Self::Stopped => false,
        }
    }
}
