//! What a generation is asked for and what comes out of it.

use crate::grounding::BoundingBox;

/// How the next token is chosen and when to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationOptions {
    /// Most tokens to generate, `</s>` included.
    pub max_new_tokens: usize,
    /// Ban tokens that would complete an n-gram already in the row (prompt and image placeholders included); 0 bans none.
    pub no_repeat_ngram_size: usize,
    /// Divide positive and multiply negative logits of tokens already in the row by this (Keskar et al., 2019); 1 changes nothing.
    pub repetition_penalty: f32,
    /// How to choose among the logits.
    pub sampling: Sampling,
}

impl Default for GenerationOptions {
    fn default() -> Self {
        Self { max_new_tokens: 256, no_repeat_ngram_size: 0, repetition_penalty: 1.0, sampling: Sampling::Greedy }
    }
}

/// An option outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} is {found}, but must be {expected}")]
pub struct OptionsError {
    /// The option.
    pub name: &'static str,
    /// Its value.
    pub found: String,
    /// The range.
    pub expected: &'static str,
}

impl GenerationOptions {
    /// Checks every option's range.
    ///
    /// # Errors
    /// [`OptionsError`] naming the first one that is out of its range.
    pub fn check(&self) -> Result<(), OptionsError> {
        let refuse = |name, found: &dyn std::fmt::Display, expected| {
            Err(OptionsError { name, found: found.to_string(), expected })
        };
        if self.max_new_tokens == 0 {
            return refuse("max_new_tokens", &0, "at least 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return refuse("repetition_penalty", &self.repetition_penalty, "a finite number above 0");
        }
        let Sampling::Random { temperature, top_k, top_p, .. } = self.sampling else {
            return Ok(());
        };
        if !(temperature > 0.0 && temperature.is_finite()) {
            return refuse("temperature", &temperature, "a finite number above 0");
        }
        if top_k == Some(0) {
            return refuse("top_k", &0, "at least 1");
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return refuse("top_p", &top_p, "above 0 and at most 1");
        }
        Ok(())
    }
}

/// The choice among the (penalised) logits.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampling {
    /// The best token; the lowest id among equals.
    Greedy,
    /// A seeded draw.
    Random {
        /// Logits are divided by this; above 0.
        temperature: f32,
        /// Only the k best tokens; `None` keeps all.
        top_k: Option<usize>,
        /// Only the smallest set of best tokens whose probabilities reach this; in (0, 1].
        top_p: f32,
        /// The same seed, prompt and picture give the same tokens, whatever else is in the batch.
        seed: u64,
    },
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model said `</s>`.
    Stop,
    /// `max_new_tokens` was reached: the text is cut.
    Length,
}

/// One prompt's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct GroundedText {
    /// The prompt as fed to the model, boxes inserted, without the image placeholders.
    pub prompt: String,
    /// Tokens of the whole prompt, image placeholders included.
    pub prompt_tokens: usize,
    /// Prompt and generated text without tags, as the reference's `post_process_generation` returns it.
    pub text: String,
    /// Prompt and generated text with tags, as `post_process_generation(cleanup_and_extract=False)` returns it.
    pub raw_text: String,
    /// The generated tokens, `</s>` included where it was reached.
    pub token_ids: Vec<u32>,
    /// Natural-log probability of each generated token under the raw logits (before penalties, bans and temperature).
    pub logprobs: Vec<f32>,
    /// Phrases and their boxes, in reading order.
    pub entities: Vec<ScoredEntity>,
    /// Why the generation ended.
    pub finish_reason: FinishReason,
}

/// A phrase tied to places in the picture.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredEntity {
    /// The phrase, trimmed; `<patch_index_44><patch_index_863>` for a box without a phrase.
    pub phrase: String,
    /// Start and end in Unicode code points of `text`. As in the reference, odd markup can give negative or reversed spans.
    pub span: (i64, i64),
    /// Boxes as fractions of the picture, in the order generated.
    pub boxes: Vec<BoundingBox>,
    /// exp(mean log-probability) of the phrase's generated tokens, in 0..=1; `None` where the phrase stood in the prompt.
    pub score: Option<f32>,
    /// The same for the two patch tokens of each box; `None` where the box stood in the prompt.
    pub box_scores: Vec<Option<f32>>,
}
