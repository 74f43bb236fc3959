//! How likely a given text is: its tokens' log-probabilities, and the loss that training would have.

use std::sync::Arc;

use crate::backend::{ImageEmbedding, LogitsOutput, LogitsRequest, Segment};
use crate::error::ModelError;
use crate::options::FinishReason;
use crate::processor::prompt::EncodedPrompt;
use crate::progress::Progress;
use crate::reductions::log_sum_exp;
use crate::sequence::{GeneratedTokens, TokenRoles, Track, places};

/// Tokens scored in one step: bounds the logits held at once, a row of the vocabulary each.
const CHUNK: usize = 64;

/// A prompt and a text behind it, token by token.
pub struct TeacherForcing {
    track: Track,
    /// Tokens that are given, not scored.
    given: usize,
    mask: Option<Vec<u8>>,
    roles: Arc<TokenRoles>,
    logprobs: Vec<f32>,
}

impl TeacherForcing {
    /// `whole` is the prompt with the text; the first `given` tokens are not scored. At least one is given, since
    /// nothing comes before the first.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] where there is nothing to score.
    pub fn new(whole: &EncodedPrompt, given: usize, roles: &Arc<TokenRoles>) -> Result<Self, ModelError> {
        let given = given.max(1);
        if whole.input_ids.len() <= given {
            return Err(ModelError::EmptyPrompt);
        }
        Ok(Self {
            track: Track::new(whole.input_ids.clone()),
            given,
            mask: whole.image_embeds_position_mask.clone(),
            roles: Arc::clone(roles),
            logprobs: Vec::new(),
        })
    }

    pub(crate) fn prompt(&self) -> &[u32] {
        &self.track.ids[..self.given]
    }

    pub(crate) fn max_tokens(&self) -> usize {
        self.track.ids.len()
    }

    pub(crate) fn track_mut(&mut self) -> &mut Track {
        &mut self.track
    }

    /// The next chunk; of its logits, those behind tokens that a scored one follows.
    pub(crate) fn segment<'a>(&'a self, slot: usize, image: Option<&'a ImageEmbedding>) -> Segment<'a> {
        let mut segment = self.track.segment(slot, places(image, &self.mask), self.roles.pad, self.chunk());
        let end = segment.tokens.len().min(self.track.ids.len() - 1 - segment.cached);
        segment.logits = self.first_row()..end;
        segment
    }

    /// The prompt in one piece, with the first tokens of the text; then text by chunks.
    fn chunk(&self) -> usize {
        self.given.saturating_sub(self.track.cached()) + CHUNK
    }

    /// The first token of the chunk whose logits are wanted.
    fn first_row(&self) -> usize {
        (self.given - 1).saturating_sub(self.track.cached())
    }

    /// Tokens whose probabilities the next chunk tells.
    fn scored(&self) -> &[u32] {
        let first = self.track.cached() + self.first_row() + 1;
        let end = (self.track.cached() + self.chunk() + 1).min(self.track.ids.len());
        &self.track.ids[first.min(end)..end]
    }

    pub(crate) fn logits_requests(&self) -> impl Iterator<Item = LogitsRequest> {
        self.scored().iter().map(|&token| LogitsRequest::Score(token))
    }

    pub(crate) fn accept(&mut self, rows: &[LogitsOutput]) -> Result<Progress, ModelError> {
        let logprob = |(&token, row): (&u32, &LogitsOutput)| match row {
            LogitsOutput::Logits(logits) => {
                Ok(logits[token as usize] - log_sum_exp(logits).ok_or(ModelError::NotFinite)?)
            }
            LogitsOutput::Chosen(chosen) if chosen.logprob.is_finite() => Ok(chosen.logprob),
            LogitsOutput::Chosen(_) => Err(ModelError::NotFinite),
        };
        let found = self.scored().iter().zip(rows).map(logprob).collect::<Result<Vec<_>, _>>()?;
        self.logprobs.extend(found);
        self.track.computed(self.chunk());
        Ok(Progress::finished_if(self.track.cached() == self.track.ids.len()))
    }

    /// The scored tokens and the natural-log probability of each, given all before it.
    pub fn finish(self) -> GeneratedTokens {
        GeneratedTokens {
            corners: vec![None; self.logprobs.len()],
            token_ids: self.track.ids[self.given..].to_vec(),
            logprobs: self.logprobs,
            finish_reason: FinishReason::Scored,
        }
    }
}
