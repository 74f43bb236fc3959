//! Tokens of a sequence: their roles, which of them are cached, and the result of a decoding.

use std::ops::Range;

use crate::backend::{CopyFrom, ImageEmbedding, ImagePlaces, Segment};
use crate::grounding::CornerEstimate;
use crate::options::FinishReason;

/// Token ids with a special role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRoles {
    /// `<pad>`, which positions do not count.
    pub pad: u32,
    /// Ids that end a text.
    pub end: Vec<u32>,
    /// The patch tokens, in order.
    pub patches: Range<u32>,
}

/// What the next step computes of a decoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepTokens {
    /// Sequences: one, or one for each open beam.
    pub sequences: usize,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens after the prompt.
    pub answer: usize,
}

impl std::iter::Sum for StepTokens {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            sequences: sum.sequences + one.sequences,
            prompt: sum.prompt + one.prompt,
            answer: sum.answer + one.answer,
        })
    }
}

/// The result of a decoding.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedTokens {
    /// New ids, including `</s>` if it was generated, or the ids of a scored text.
    pub token_ids: Vec<u32>,
    /// Natural-log probability of each under the model's raw logits.
    pub logprobs: Vec<f32>,
    /// The estimated corner of each patch token; `None` for other tokens.
    pub corners: Vec<Option<CornerEstimate>>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Tokens of a sequence. The keys and values of the first [`Self::cached`] are in a slot.
#[derive(Debug, Clone)]
pub(super) struct CachedTokens {
    pub(super) ids: Vec<u32>,
    cached: usize,
    copy: Option<CopyFrom>,
}

impl CachedTokens {
    pub(super) fn new(ids: Vec<u32>) -> Self {
        Self { ids, cached: 0, copy: None }
    }

    /// Declares the tokens before `range.end` cached. The keys and values of `range` are copied from `slot` with the
    /// next segment; `None` if they are in the sequence's own slot already.
    pub(super) fn share(&mut self, slot: Option<usize>, range: Range<usize>) {
        self.cached = range.end;
        self.copy = slot.map(|slot| CopyFrom { slot, columns: range });
    }

    pub(super) fn cached(&self) -> usize {
        self.cached
    }

    /// The segment of the next uncached tokens, at most `max_tokens`.
    pub(super) fn segment<'a>(
        &'a self,
        slot: usize,
        image: Option<ImagePlaces<'a>>,
        pad: u32,
        max_tokens: usize,
    ) -> Segment<'a> {
        let (cached, uncached) = self.ids.split_at(self.cached);
        let tokens = &uncached[..uncached.len().min(max_tokens)];
        Segment {
            slot,
            cached: self.cached,
            copy: self.copy.clone(),
            tokens,
            preceding_non_pad: cached.iter().filter(|&&id| id != pad).count(),
            image,
            logits: tokens.len() - 1..tokens.len(),
        }
    }

    /// What a segment of at most `max_tokens` tokens computes, if the first `prompt_len` tokens are the prompt.
    pub(super) fn step_tokens(&self, prompt_len: usize, max_tokens: usize) -> StepTokens {
        let tokens = (self.ids.len() - self.cached).min(max_tokens);
        let prompt = prompt_len.saturating_sub(self.cached).min(tokens);
        StepTokens { sequences: 1, prompt, answer: tokens - prompt }
    }

    /// Marks the tokens of a segment of at most `max_tokens` tokens as cached.
    pub(super) fn mark_cached(&mut self, max_tokens: usize) {
        self.cached = self.ids.len().min(self.cached.saturating_add(max_tokens));
        self.copy = None;
    }
}

pub(super) fn image_places<'a>(
    image: Option<&'a ImageEmbedding>,
    mask: &'a Option<Vec<u8>>,
) -> Option<ImagePlaces<'a>> {
    image.zip(mask.as_deref()).map(|(embedding, mask)| ImagePlaces { embedding, mask })
}
