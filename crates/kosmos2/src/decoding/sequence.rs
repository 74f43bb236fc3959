//! A prompt continued by one token at a time.

use std::sync::Arc;

use super::progress::Progress;
use super::sampling::{SampledToken, Sampler};
use super::tokens::{CachedTokens, GeneratedTokens, StepTokens, TokenRoles, image_places};
use crate::backend::{ChosenToken, ImageEmbedding, LogitsOutput, LogitsRequest, Segment};
use crate::error::ModelError;
use crate::grounding::CornerEstimate;
use crate::options::{FinishReason, GenerationOptions};
use crate::processor::prompt::EncodedPrompt;

/// A prompt continued by one token at a time.
pub struct Sequence {
    tokens: CachedTokens,
    prompt_len: usize,
    image_mask: Option<Vec<u8>>,
    roles: Arc<TokenRoles>,
    sampler: Sampler,
    max_new_tokens: usize,
    logprobs: Vec<f32>,
    corners: Vec<Option<CornerEstimate>>,
    finish_reason: Option<FinishReason>,
}

impl Sequence {
    /// A sequence of the prompt alone.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] if the prompt has no tokens.
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
            tokens: CachedTokens::new(prompt.input_ids.clone()),
            prompt_len: prompt.input_ids.len(),
            image_mask: prompt.image_embeds_position_mask.clone(),
            roles: Arc::clone(roles),
            sampler,
            max_new_tokens: options.max_new_tokens,
            logprobs: Vec::new(),
            corners: Vec::new(),
            finish_reason: None,
        })
    }

    pub(super) fn prompt(&self) -> &[u32] {
        &self.tokens.ids[..self.prompt_len]
    }

    pub(super) fn max_tokens(&self) -> usize {
        self.prompt_len + self.max_new_tokens
    }

    pub(super) fn step_tokens(&self) -> StepTokens {
        self.tokens.step_tokens(self.prompt_len, usize::MAX)
    }

    pub(super) fn cached(&self) -> usize {
        self.tokens.cached()
    }

    pub(super) fn tokens_mut(&mut self) -> &mut CachedTokens {
        &mut self.tokens
    }

    pub(super) fn segment<'a>(&'a self, slot: usize, image: Option<&'a ImageEmbedding>) -> Segment<'a> {
        self.tokens.segment(slot, image_places(image, &self.image_mask), self.roles.pad, usize::MAX)
    }

    pub(super) fn logits_request(&self) -> LogitsRequest {
        self.sampler.logits_request(self.roles.patches.clone())
    }

    /// Appends the next token, given the output after the last one, and returns whether the sequence has finished.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] if the logits are not finite.
    pub fn accept(&mut self, output: LogitsOutput) -> Result<Progress, ModelError> {
        self.tokens.mark_cached(usize::MAX);
        let chosen = match output {
            LogitsOutput::Logits(logits) => {
                let SampledToken { token, logprob } =
                    self.sampler.choose(logits, &self.tokens.ids).ok_or(ModelError::NotFinite)?;
                ChosenToken::with_corner(token, logprob, logits, &self.roles.patches)
            }
            LogitsOutput::Chosen(chosen) if chosen.logprob.is_finite() => {
                self.sampler.advance(chosen.token);
                chosen
            }
            LogitsOutput::Chosen(_) => return Err(ModelError::NotFinite),
        };
        self.tokens.ids.push(chosen.token);
        self.logprobs.push(chosen.logprob);
        self.corners.push(chosen.corner);
        if self.roles.end.contains(&chosen.token) {
            self.finish_reason = Some(FinishReason::Stop);
        } else if self.logprobs.len() >= self.max_new_tokens {
            self.finish_reason = Some(FinishReason::Length);
        }
        Ok(Progress::finished_if(self.finish_reason.is_some()))
    }

    /// The generated tokens. An unfinished sequence counts as cut at its token limit.
    pub fn finish(self) -> GeneratedTokens {
        GeneratedTokens {
            token_ids: self.tokens.ids[self.prompt_len..].to_vec(),
            logprobs: self.logprobs,
            corners: self.corners,
            finish_reason: self.finish_reason.unwrap_or(FinishReason::Length),
        }
    }
}
