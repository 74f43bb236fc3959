//! The log-probabilities of a given text, from which its training loss follows.

use std::sync::Arc;

use super::progress::Progress;
use super::tokens::{CachedTokens, GeneratedTokens, StepTokens, TokenRoles, image_places};
use crate::backend::{ImageEmbedding, LogitsOutput, LogitsRequest, Segment};
use crate::error::ModelError;
use crate::options::FinishReason;
use crate::processor::prompt::EncodedPrompt;
use crate::reductions::log_sum_exp;

/// Tokens scored in one step. It bounds the logits that are held at once, one row of the vocabulary for each token.
const CHUNK: usize = 64;

/// A prompt followed by a text whose tokens are scored.
pub struct TeacherForcing {
    tokens: CachedTokens,
    /// Tokens that are not scored.
    prompt_len: usize,
    image_mask: Option<Vec<u8>>,
    roles: Arc<TokenRoles>,
    logprobs: Vec<f32>,
}

impl TeacherForcing {
    /// `whole` is the prompt followed by the text. The first `prompt_len` tokens are not scored, and never the first
    /// token, which no logits precede.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] if there is no token to score.
    pub fn new(whole: &EncodedPrompt, prompt_len: usize, roles: &Arc<TokenRoles>) -> Result<Self, ModelError> {
        let prompt_len = prompt_len.max(1);
        if whole.input_ids.len() <= prompt_len {
            return Err(ModelError::EmptyPrompt);
        }
        Ok(Self {
            tokens: CachedTokens::new(whole.input_ids.clone()),
            prompt_len,
            image_mask: whole.image_embeds_position_mask.clone(),
            roles: Arc::clone(roles),
            logprobs: Vec::new(),
        })
    }

    pub(super) fn prompt(&self) -> &[u32] {
        &self.tokens.ids[..self.prompt_len]
    }

    pub(super) fn max_tokens(&self) -> usize {
        self.tokens.ids.len()
    }

    pub(super) fn step_tokens(&self) -> StepTokens {
        self.tokens.step_tokens(self.prompt_len, self.chunk())
    }

    pub(super) fn cached(&self) -> usize {
        self.tokens.cached()
    }

    pub(super) fn tokens_mut(&mut self) -> &mut CachedTokens {
        &mut self.tokens
    }

    /// The next chunk. Logits are requested after the tokens that precede a scored one.
    pub(super) fn segment<'a>(&'a self, slot: usize, image: Option<&'a ImageEmbedding>) -> Segment<'a> {
        let image = image_places(image, &self.image_mask);
        let mut segment = self.tokens.segment(slot, image, self.roles.pad, self.chunk());
        let end = segment.tokens.len().min(self.tokens.ids.len() - 1 - segment.cached);
        segment.logits = self.first_scored_row()..end;
        segment
    }

    /// Maximum tokens of the next segment: the rest of the prompt in one piece, and a chunk of the text.
    fn chunk(&self) -> usize {
        self.prompt_len.saturating_sub(self.tokens.cached()) + CHUNK
    }

    /// Index of the segment's first token whose logits are needed.
    fn first_scored_row(&self) -> usize {
        (self.prompt_len - 1).saturating_sub(self.tokens.cached())
    }

    /// The tokens that the next segment scores.
    fn scored(&self) -> &[u32] {
        let first = self.tokens.cached() + self.first_scored_row() + 1;
        let end = (self.tokens.cached() + self.chunk() + 1).min(self.tokens.ids.len());
        &self.tokens.ids[first.min(end)..end]
    }

    pub(super) fn logits_requests(&self) -> impl Iterator<Item = LogitsRequest> {
        self.scored().iter().map(|&token| LogitsRequest::Score(token))
    }

    pub(super) fn accept(&mut self, outputs: &[LogitsOutput]) -> Result<Progress, ModelError> {
        let logprob = |(&token, output): (&u32, &LogitsOutput)| match output {
            LogitsOutput::Logits(logits) => {
                Ok(logits[token as usize] - log_sum_exp(logits).ok_or(ModelError::NotFinite)?)
            }
            LogitsOutput::Chosen(chosen) if chosen.logprob.is_finite() => Ok(chosen.logprob),
            LogitsOutput::Chosen(_) => Err(ModelError::NotFinite),
        };
        let logprobs = self.scored().iter().zip(outputs).map(logprob).collect::<Result<Vec<_>, _>>()?;
        self.logprobs.extend(logprobs);
        self.tokens.mark_cached(self.chunk());
        Ok(Progress::finished_if(self.tokens.cached() == self.tokens.ids.len()))
    }

    /// The scored tokens and the natural-log probability of each, given all tokens before it.
    pub fn finish(self) -> GeneratedTokens {
        GeneratedTokens {
            corners: vec![None; self.logprobs.len()],
            token_ids: self.tokens.ids[self.prompt_len..].to_vec(),
            logprobs: self.logprobs,
            finish_reason: FinishReason::Scored,
        }
    }
}
