//! Requests, responses and errors of the engine.

use std::time::Duration;

use kosmos2::options::GroundedText;
use kosmos2::processor::image::PixelValues;
use kosmos2::{AnnotateError, ModelError, Query};

/// One picture and the queries about it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The preprocessed picture.
    pub pixels: PixelValues,
    /// The queries. They share one pass of the vision tower, and the decoder's work on the tokens that their prompts
    /// have in common at the start.
    pub queries: Vec<Query>,
}

/// The result of a [`Request`].
#[derive(Debug, Clone)]
pub struct Response {
    /// One text for each query, in the request's order.
    pub texts: Vec<GroundedText>,
    /// How long each stage took.
    pub timings: Timings,
}

/// Wall-clock time of a request by stage. A step of the model serves many requests at once, so these are waiting times
/// and not shares of the device's work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From submission until the vision tower starts.
    pub queued: Duration,
    /// Vision tower and projection.
    pub vision: Duration,
    /// From the image embedding to the first token of the first query.
    pub prefill: Duration,
    /// From the first token to the last token of the last query.
    pub decode: Duration,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A prompt, its boxes or an option are invalid, or the model failed on this request.
    #[error(transparent)]
    Annotate(#[from] AnnotateError),
    /// A prompt and its answer do not fit into a slot. Permanent.
    #[error(
        "the prompt and its answer could take {tokens} tokens, but a slot holds {slot_tokens}; ask for fewer new tokens, or raise engine.slot_tokens"
    )]
    TooLong {
        /// Tokens of the prompt and its longest answer.
        tokens: usize,
        /// Tokens of a slot.
        slot_tokens: usize,
    },
    /// A query needs more slots than there are. Permanent.
    #[error("{needed} slots are needed at once, but there are {slots}; ask for fewer beams, or raise engine.slots")]
    TooWide {
        /// Slots that the query needs.
        needed: usize,
        /// Slots of the engine.
        slots: usize,
    },
    /// The model panicked on this request. The engine keeps running.
    #[error("the model panicked: {0}")]
    Panicked(String),
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}

impl EngineError {
    /// Whether the request itself is invalid, so that it fails on every worker with the same settings.
    pub fn is_invalid_request(&self) -> bool {
        match self {
            Self::TooLong { .. } | Self::TooWide { .. } | Self::Annotate(AnnotateError::Prompt(_)) => true,
            Self::Annotate(AnnotateError::Model(error)) => matches!(
                error,
                ModelError::Options(_)
                    | ModelError::EmptyPrompt
                    | ModelError::Placeholders { .. }
                    | ModelError::UnknownToken { .. }
            ),
            Self::Panicked(_) | Self::Stopped => false,
        }
    }
}
