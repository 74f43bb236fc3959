//! What can be asked of a prompt, as the steps of the decoder see it.

use crate::backend::{ImageEmbedding, LogitsOutput, LogitsRequest, Segment};
use crate::beam_slots::BeamSlots;
use crate::error::ModelError;
use crate::progress::Progress;
use crate::sequence::{GeneratedTokens, Sequence};
use crate::teacher_forcing::TeacherForcing;

/// A prompt on its way through the decoder. Each takes [`Self::slots`] slots; a step runs its [`Self::segments`] and
/// hands it their logits.
pub enum Decoding {
    /// Continued token by token.
    Sequence(Box<Sequence>),
    /// Continued as several texts, of which the best counts.
    Beams(Box<BeamSlots>),
    /// A given text scored.
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
    /// Slots it needs at once.
    pub fn slots(&self) -> usize {
        match self {
            Self::Sequence(_) | Self::Scoring(_) => 1,
            Self::Beams(beams) => beams.slots(),
        }
    }

    /// The most tokens that one of its slots will hold.
    pub fn max_tokens(&self) -> usize {
        match self {
            Self::Sequence(sequence) => sequence.max_tokens(),
            Self::Beams(beams) => beams.max_tokens(),
            Self::Scoring(scoring) => scoring.max_tokens(),
        }
    }

    /// The tokens that are there from the start.
    pub fn prompt(&self) -> &[u32] {
        match self {
            Self::Sequence(sequence) => sequence.prompt(),
            Self::Beams(beams) => beams.prompt(),
            Self::Scoring(scoring) => scoring.prompt(),
        }
    }

    /// Before its first step: the keys and values of the first `columns` tokens are in `slot` already (`None`: in its
    /// own first slot), put there by another decoding with the same picture and the same first tokens. At least one
    /// token of the prompt must be left.
    pub fn share_prefix(&mut self, slot: Option<usize>, columns: usize) {
        match self {
            Self::Sequence(sequence) => sequence.track_mut().share(slot, 0..columns),
            Self::Beams(beams) => beams.share_prefix(slot, columns),
            Self::Scoring(scoring) => scoring.track_mut().share(slot, 0..columns),
        }
    }

    /// What the next step has to compute, in these slots.
    pub fn segments<'a>(&'a self, slots: &[usize], image: Option<&'a ImageEmbedding>) -> Vec<Segment<'a>> {
        match self {
            Self::Sequence(sequence) => vec![sequence.segment(slots[0], image)],
            Self::Beams(beams) => beams.segments(slots, image),
            Self::Scoring(scoring) => vec![scoring.segment(slots[0], image)],
        }
    }

    /// What it wants of the rows behind its segments, in order.
    pub fn logits_requests(&self, requests: &mut Vec<LogitsRequest>) {
        match self {
            Self::Sequence(sequence) => requests.push(sequence.logits_request()),
            Self::Beams(beams) => requests.extend(beams.logits_requests()),
            Self::Scoring(scoring) => requests.extend(scoring.logits_requests()),
        }
    }

    /// Takes what came of its rows: what it wanted or their logits; whether it has ended.
    ///
    /// # Errors
    /// [`ModelError`] when the logits are not finite.
    pub fn accept(&mut self, rows: &[LogitsOutput]) -> Result<Progress, ModelError> {
        match self {
            Self::Sequence(sequence) => sequence.accept(rows[0]),
            Self::Beams(beams) => beams.accept(rows),
            Self::Scoring(scoring) => scoring.accept(rows),
        }
    }

    /// What it came to.
    pub fn finish(self) -> GeneratedTokens {
        match self {
            Self::Sequence(sequence) => sequence.finish(),
            Self::Beams(beams) => beams.finish(),
            Self::Scoring(scoring) => scoring.finish(),
        }
    }
}

/// How many first tokens two prompts about one picture have in common, at least one of `prompt` left over.
pub fn common_prefix(prompt: &[u32], other: &[u32]) -> usize {
    let same = prompt.iter().zip(other).take_while(|(a, b)| a == b).count();
    same.min(prompt.len().saturating_sub(1))
}
