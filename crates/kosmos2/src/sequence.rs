//! One prompt being continued: its tokens so far, what of them is computed, and the choice of the next.

use std::ops::Range;
use std::sync::Arc;

use crate::backend::{Chosen, CopyFrom, ImageEmbedding, ImagePlaces, LogitsOutput, LogitsRequest, Segment};
use crate::error::ModelError;
use crate::grounding::corner::CornerEstimate;
use crate::options::{FinishReason, GenerationOptions};
use crate::processor::prompt::EncodedPrompt;
use crate::progress::Progress;
use crate::sampling::{Choice, Sampler};

/// Ids with a meaning of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRoles {
    /// `<pad>`, which positions do not count.
    pub pad: u32,
    /// Ids that end a text.
    pub end: Vec<u32>,
    /// The patch tokens, in order.
    pub patches: Range<u32>,
}

/// What a prompt came to.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedTokens {
    /// New ids, `</s>` included where it was reached, or the ids of a scored text.
    pub token_ids: Vec<u32>,
    /// Natural-log probability of each under the model's own logits.
    pub logprobs: Vec<f32>,
    /// For each patch token, where the model saw the corner between the cells.
    pub corners: Vec<Option<CornerEstimate>>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Tokens of which the first so many have their keys and values in a slot.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    pub(crate) ids: Vec<u32>,
    cached: usize,
    copy: Option<CopyFrom>,
}

impl Track {
    pub(crate) fn new(ids: Vec<u32>) -> Self {
        Self { ids, cached: 0, copy: None }
    }

    /// Takes over the first columns of another slot, or of its own where `slot` is where it is put itself.
    pub(crate) fn share(&mut self, slot: Option<usize>, columns: Range<usize>) {
        self.cached = columns.end;
        self.copy = slot.map(|slot| CopyFrom { slot, columns });
    }

    pub(crate) fn cached(&self) -> usize {
        self.cached
    }

    /// The next `most` tokens that are not computed yet.
    pub(crate) fn segment<'a>(
        &'a self,
        slot: usize,
        image: Option<ImagePlaces<'a>>,
        pad: u32,
        most: usize,
    ) -> Segment<'a> {
        let (done, rest) = self.ids.split_at(self.cached);
        let tokens = &rest[..rest.len().min(most)];
        Segment {
            slot,
            cached: self.cached,
            copy: self.copy.clone(),
            tokens,
            seen: done.iter().filter(|&&id| id != pad).count(),
            image,
            logits: tokens.len() - 1..tokens.len(),
        }
    }

    /// After the segment of `most` tokens was computed.
    pub(crate) fn computed(&mut self, most: usize) {
        self.cached = self.ids.len().min(self.cached.saturating_add(most));
        self.copy = None;
    }
}

/// A prompt continued by one token at a time.
pub struct Sequence {
    track: Track,
    prompt: usize,
    mask: Option<Vec<u8>>,
    roles: Arc<TokenRoles>,
    sampler: Sampler,
    max_new_tokens: usize,
    logprobs: Vec<f32>,
    corners: Vec<Option<CornerEstimate>>,
    finish_reason: Option<FinishReason>,
}

impl Sequence {
    /// A sequence at the end of its prompt.
    ///
    /// # Errors
    /// [`ModelError`] when the prompt is empty or an option out of its range.
    pub fn new(
        prompt: &EncodedPrompt,
        options: &GenerationOptions,
        roles: &Arc<TokenRoles>,
        sampler: Sampler,
    ) -> Result<Self, ModelError> {
        if prompt.input_ids.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        Ok(Self {
            track: Track::new(prompt.input_ids.clone()),
            prompt: prompt.input_ids.len(),
            mask: prompt.image_embeds_position_mask.clone(),
            roles: Arc::clone(roles),
            sampler,
            max_new_tokens: options.max_new_tokens,
            logprobs: Vec::new(),
            corners: Vec::new(),
            finish_reason: None,
        })
    }

    pub(crate) fn prompt(&self) -> &[u32] {
        &self.track.ids[..self.prompt]
    }

    pub(crate) fn max_tokens(&self) -> usize {
        self.prompt + self.max_new_tokens
    }

    pub(crate) fn track_mut(&mut self) -> &mut Track {
        &mut self.track
    }

    pub(crate) fn segment<'a>(&'a self, slot: usize, image: Option<&'a ImageEmbedding>) -> Segment<'a> {
        self.track.segment(slot, places(image, &self.mask), self.roles.pad, usize::MAX)
    }

    pub(crate) fn logits_request(&self) -> LogitsRequest {
        self.sampler.logits_request(self.roles.patches.clone())
    }

    /// Takes the next token from the row behind all tokens so far; whether the sequence has ended with it.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`].
    pub fn accept(&mut self, row: LogitsOutput) -> Result<Progress, ModelError> {
        self.track.computed(usize::MAX);
        let choice = match row {
            LogitsOutput::Logits(logits) => {
                let Choice { token, logprob } =
                    self.sampler.choose(logits, &self.track.ids).ok_or(ModelError::NotFinite)?;
                Chosen::of_row(token, logprob, logits, &self.roles.patches)
            }
            LogitsOutput::Chosen(chosen) if chosen.logprob.is_finite() => {
                self.sampler.took(chosen.token);
                chosen
            }
            LogitsOutput::Chosen(_) => return Err(ModelError::NotFinite),
        };
        self.track.ids.push(choice.token);
        self.logprobs.push(choice.logprob);
        self.corners.push(choice.corner);
        if self.roles.end.contains(&choice.token) {
            self.finish_reason = Some(FinishReason::Stop);
        } else if self.logprobs.len() >= self.max_new_tokens {
            self.finish_reason = Some(FinishReason::Length);
        }
        Ok(Progress::finished_if(self.finish_reason.is_some()))
    }

    /// What it came to; a sequence that was still going on counts as cut.
    pub fn finish(self) -> GeneratedTokens {
        GeneratedTokens {
            token_ids: self.track.ids[self.prompt..].to_vec(),
            logprobs: self.logprobs,
            corners: self.corners,
            finish_reason: self.finish_reason.unwrap_or(FinishReason::Length),
        }
    }
}

pub(crate) fn places<'a>(image: Option<&'a ImageEmbedding>, mask: &'a Option<Vec<u8>>) -> Option<ImagePlaces<'a>> {
    image.zip(mask.as_deref()).map(|(embedding, mask)| ImagePlaces { embedding, mask })
}
