//! [`Decoding`]: one type for the three kinds of queries.

use super::beam_slots::BeamSlots;
use super::progress::Progress;
use super::sequence::Sequence;
use super::teacher_forcing::TeacherForcing;
use super::tokens::{GeneratedTokens, StepTokens};
use crate::backend::{ImageEmbedding, LogitsOutput, LogitsRequest, Segment};
use crate::error::ModelError;

/// A query in the decoder. It occupies [`Self::slots`] slots. In each step the backend computes its [`Self::segments`],
/// and [`Self::accept`] takes the outputs.
pub enum Decoding {
    /// A prompt continued token by token.
    Sequence(Box<Sequence>),
    /// A beam search.
    Beams(Box<BeamSlots>),
    /// A given text, scored.
    Scoring(TeacherForcing),
}

impl From<Sequence> for Decoding {
    fn from(sequence: Sequence) -> Self {
        Self::Sequence(Box::new(sequence))
    }
}

impl From<BeamSlots> for Decoding {
    fn from(beams: BeamSlots) -> Self {
        Self::Beams(Box::new(beams))
    }
}

impl Decoding {
    /// Number of slots that it needs.
    pub fn slots(&self) -> usize {
        match self {
            Self::Sequence(_) | Self::Scoring(_) => 1,
            Self::Beams(beams) => beams.slots(),
        }
    }

    /// Maximum number of tokens in one of its slots.
    pub fn max_tokens(&self) -> usize {
        match self {
            Self::Sequence(sequence) => sequence.max_tokens(),
            Self::Beams(beams) => beams.max_tokens(),
            Self::Scoring(scoring) => scoring.max_tokens(),
        }
    }

    /// The prompt's tokens.
    pub fn prompt(&self) -> &[u32] {
        match self {
            Self::Sequence(sequence) => sequence.prompt(),
            Self::Beams(beams) => beams.prompt(),
            Self::Scoring(scoring) => scoring.prompt(),
        }
    }

    /// What the next step computes.
    pub fn step_tokens(&self) -> StepTokens {
        match self {
            Self::Sequence(sequence) => sequence.step_tokens(),
            Self::Beams(beams) => beams.step_tokens(),
            Self::Scoring(scoring) => scoring.step_tokens(),
        }
    }

    /// Number of tokens whose keys and values its slots hold.
    pub fn cached(&self) -> usize {
        match self {
            Self::Sequence(sequence) => sequence.cached(),
            Self::Beams(beams) => beams.cached(),
            Self::Scoring(scoring) => scoring.cached(),
        }
    }

    /// Shares the keys and values of the first `tokens` tokens with another decoding, so that the first step computes
    /// only the rest of the prompt. They are copied from `slot`; `None` means that they are already in the decoding's
    /// own first slot, left by a decoding that held it before.
    ///
    /// Must be called before the first step. The other decoding must have the same picture and the same first tokens
    /// (see [`common_prefix`]), and `tokens` must be less than the prompt's length. The other decoding may compute its
    /// prompt in the same step, as long as it does not share a prefix from a slot itself.
    pub fn share_prefix(&mut self, slot: Option<usize>, tokens: usize) {
        match self {
            Self::Sequence(sequence) => sequence.tokens_mut().share(slot, 0..tokens),
            Self::Beams(beams) => beams.share_prefix(slot, tokens),
            Self::Scoring(scoring) => scoring.tokens_mut().share(slot, 0..tokens),
        }
    }

    /// The segments that the next step computes. `slots` are the [`Self::slots`] slots of this decoding.
    pub fn segments<'a>(&'a self, slots: &[usize], image: Option<&'a ImageEmbedding>) -> Vec<Segment<'a>> {
        match self {
            Self::Sequence(sequence) => vec![sequence.segment(slots[0], image)],
            Self::Beams(beams) => beams.segments(slots, image),
            Self::Scoring(scoring) => vec![scoring.segment(slots[0], image)],
        }
    }

    /// Appends a request for each row of logits of its segments, in order.
    pub fn logits_requests(&self, requests: &mut Vec<LogitsRequest>) {
        match self {
            Self::Sequence(sequence) => requests.push(sequence.logits_request()),
            Self::Beams(beams) => requests.extend(beams.logits_requests()),
            Self::Scoring(scoring) => requests.extend(scoring.logits_requests()),
        }
    }

    /// Takes one output for each of its logits requests, in order, and returns whether it has finished.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] if the logits are not finite.
    pub fn accept(&mut self, outputs: &[LogitsOutput]) -> Result<Progress, ModelError> {
        match self {
            Self::Sequence(sequence) => sequence.accept(outputs[0]),
            Self::Beams(beams) => beams.accept(outputs),
            Self::Scoring(scoring) => scoring.accept(outputs),
        }
    }

    /// The generated or scored tokens. A decoding that has not finished counts as cut at its token limit.
    pub fn finish(self) -> GeneratedTokens {
        match self {
            Self::Sequence(sequence) => sequence.finish(),
            Self::Beams(beams) => beams.finish(),
            Self::Scoring(scoring) => scoring.finish(),
        }
    }
}

/// Number of first tokens that two prompts have in common, less than the length of `prompt`, so that at least one token
/// of it is left to compute.
pub fn common_prefix(prompt: &[u32], other: &[u32]) -> usize {
    let same = prompt.iter().zip(other).take_while(|(a, b)| a == b).count();
    same.min(prompt.len().saturating_sub(1))
}
