//! Options of a generation, and its result.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::grounding::grid::BoundingBox;

/// Largest valid `top_p` of [`Sampling::Random`], which must be above 0.
pub const MAX_TOP_P: f32 = 1.0;

/// Valid values of [`BeamOptions::num_beams`]. A search with one beam would be [`Sampling::Greedy`].
pub const NUM_BEAMS: RangeInclusive<usize> = 2..=64;

/// Valid values of [`BeamOptions::length_penalty`]. From about 16 on, powers of long texts' lengths overflow f32.
pub const LENGTH_PENALTY: RangeInclusive<f32> = -8.0..=8.0;

/// How the next token is chosen and when to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationOptions {
    /// Maximum number of tokens to generate, including `</s>`. At least 1.
    pub max_new_tokens: usize,
    /// Ban tokens that would repeat an n-gram of this size (prompt and image placeholders included); 0 bans none.
    pub no_repeat_ngram_size: usize,
    /// Divide positive and multiply negative logits of previous tokens by this (Keskar et al., 2019); 1 has no effect.
    /// Finite and above 0.
    pub repetition_penalty: f32,
    /// How to choose the next token.
    pub sampling: Sampling,
    /// Keep the markup well formed, also in answers cut at the token limit (see
    /// [`grammar`](crate::grounding::grammar)). The reference has no such option. Answers that are well formed without
    /// it stay the same.
    pub well_formed: bool,
}

impl Default for GenerationOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            no_repeat_ngram_size: 0,
            repetition_penalty: 1.0,
            sampling: Sampling::Greedy,
            well_formed: false,
        }
    }
}

/// An option is out of range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} is {found}, but must be {expected}")]
pub struct OptionsError {
    /// Name of the option.
    pub name: &'static str,
    /// Its value.
    pub found: String,
    /// Its range.
    pub expected: &'static str,
}

impl GenerationOptions {
    /// Checks the range of every option.
    ///
    /// # Errors
    /// [`OptionsError`] for the first option that is out of range.
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
        let (temperature, top_k, top_p) = match &self.sampling {
            Sampling::Greedy => return Ok(()),
            Sampling::Beam(beam) => return beam.check(),
            Sampling::Random { temperature, top_k, top_p, .. } => (*temperature, *top_k, *top_p),
        };
        if !(temperature > 0.0 && temperature.is_finite()) {
            return refuse("temperature", &temperature, "a finite number above 0");
        }
        if top_k == Some(0) {
            return refuse("top_k", &0, "at least 1");
        }
        if !(top_p > 0.0 && top_p <= MAX_TOP_P) {
            return refuse("top_p", &top_p, "above 0 and at most 1");
        }
        Ok(())
    }
}

/// How the next token is chosen from the logits after penalties and bans.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampling {
    /// The best token; of equal ones, that with the lowest id.
    Greedy,
    /// Seeded random sampling.
    Random {
        /// Logits are divided by this. Finite and above 0.
        temperature: f32,
        /// Sample from the k best tokens, k at least 1; `None` keeps all.
        top_k: Option<usize>,
        /// Sample from the smallest set of best tokens whose total probability reaches this. Above 0, at most 1.
        top_p: f32,
        /// The same seed, prompt and picture give the same tokens, independent of the batch.
        seed: u64,
    },
    /// Beam search.
    Beam(BeamOptions),
}

/// Options of a beam search, with the meaning that they have in the reference's `generate`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BeamOptions {
    /// Number of beams, in [`NUM_BEAMS`].
    pub num_beams: usize,
    /// The score of an ended text is its total log-probability divided by its generated length (including `</s>`) to
    /// the power of this. In [`LENGTH_PENALTY`].
    pub length_penalty: f32,
    /// When to stop searching for better texts.
    pub early_stopping: EarlyStopping,
}

impl Default for BeamOptions {
    fn default() -> Self {
        Self { num_beams: 4, length_penalty: 1.0, early_stopping: EarlyStopping::default() }
    }
}

impl BeamOptions {
    fn check(&self) -> Result<(), OptionsError> {
        let refuse = |name, found: String, expected| Err(OptionsError { name, found, expected });
        if !NUM_BEAMS.contains(&self.num_beams) {
            return refuse("num_beams", self.num_beams.to_string(), "2 to 64 (without beams the search is greedy)");
        }
        if !LENGTH_PENALTY.contains(&self.length_penalty) {
            return refuse("length_penalty", self.length_penalty.to_string(), "a number from -8 to 8");
        }
        Ok(())
    }
}

/// When a beam search that has as many ended texts as beams stops before the token limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EarlyStopping {
    /// At once.
    Yes,
    /// When the best open text, scored at its current length, is no better than the worst ended text.
    #[default]
    No,
    /// When the best open text is no better even at the most favourable length: the token limit if longer texts are
    /// favoured (`length_penalty` above 0), otherwise the current length.
    Never,
}

impl EarlyStopping {
    /// All values with their names.
    pub const NAMES: [(&str, Self); 3] = [("yes", Self::Yes), ("no", Self::No), ("never", Self::Never)];
}

impl FromStr for EarlyStopping {
    type Err = OptionsError;

    fn from_str(name: &str) -> Result<Self, OptionsError> {
        let known = Self::NAMES.into_iter().find(|(known, _)| *known == name);
        let unknown = || OptionsError { name: "early_stopping", found: name.to_owned(), expected: "yes, no or never" };
        known.map(|(_, value)| value).ok_or_else(unknown)
    }
}

impl fmt::Display for EarlyStopping {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let name = Self::NAMES.into_iter().find(|(_, value)| value == self).map_or("", |(name, _)| name);
        formatter.write_str(name)
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model generated `</s>`.
    Stop,
    /// `max_new_tokens` was reached, and the text is cut.
    Length,
    /// A given text was scored.
    Scored,
}

/// The answer to a prompt, or a scored text.
#[derive(Debug, Clone, PartialEq)]
pub struct GroundedText {
    /// The prompt as fed to the model, boxes inserted, without the image placeholders.
    pub prompt: String,
    /// Number of prompt tokens, image placeholders included.
    pub prompt_tokens: usize,
    /// Prompt and generated text without tags, as the reference's `post_process_generation` returns it.
    pub text: String,
    /// Prompt and generated text with tags, as `post_process_generation(cleanup_and_extract=False)` returns it.
    pub raw_text: String,
    /// The generated tokens, including `</s>` if it was reached, or the scored tokens.
    pub token_ids: Vec<u32>,
    /// Natural-log probability of each of these tokens under the raw logits (before penalties, bans and temperature).
    pub logprobs: Vec<f32>,
    /// Phrases and their boxes, in order of appearance.
    pub entities: Vec<ScoredEntity>,
    /// Why the generation ended.
    pub finish_reason: FinishReason,
}

impl GroundedText {
    /// The mean negative log-probability of `token_ids`, text and patch tokens alike. For a scored text this is the
    /// loss that transformers computes for `labels` without the prompt.
    pub fn loss(&self) -> f32 {
        let sum: f64 = self.logprobs.iter().map(|&logprob| f64::from(logprob)).sum();
        (-sum / self.logprobs.len() as f64) as f32
    }
}

/// A phrase with its boxes.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredEntity {
    /// The phrase, trimmed; `<patch_index_44><patch_index_863>` for a box without a phrase.
    pub phrase: String,
    /// Start and end in Unicode code points of `text`. As in the reference, malformed markup can give negative or
    /// reversed spans.
    pub span: (i64, i64),
    /// Boxes as fractions of the picture, in the order generated.
    pub boxes: Vec<BoundingBox>,
    /// exp(mean log-probability) of the phrase's generated tokens, in 0..=1; `None` if the phrase is part of the
    /// prompt.
    pub score: Option<f32>,
    /// The same for the two patch tokens of each box; `None` if the box is part of the prompt.
    pub box_scores: Vec<Option<f32>>,
    /// Each box with sub-cell corners, interpolated from the probabilities of the patch tokens; `None` if the box was
    /// not generated.
    pub refined_boxes: Vec<Option<BoundingBox>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_ranges_that_are_checked() {
        let error = |beam: BeamOptions| beam.check().unwrap_err().expected;
        let num_beams = error(BeamOptions { num_beams: NUM_BEAMS.end() + 1, ..BeamOptions::default() });
        assert!(num_beams.starts_with(&format!("{} to {}", NUM_BEAMS.start(), NUM_BEAMS.end())), "{num_beams}");
        let penalty = error(BeamOptions { length_penalty: LENGTH_PENALTY.end() + 1.0, ..BeamOptions::default() });
        assert!(penalty.ends_with(&format!("{} to {}", LENGTH_PENALTY.start(), LENGTH_PENALTY.end())), "{penalty}");
    }

    #[test]
    fn early_stopping_is_written_as_it_is_read() {
        for (name, value) in EarlyStopping::NAMES {
            assert_eq!((name.parse().as_ref(), value.to_string().as_str()), (Ok(&value), name));
        }
        let error = "maybe".parse::<EarlyStopping>().unwrap_err().to_string();
        assert_eq!(error, "early_stopping is maybe, but must be yes, no or never");
    }
}
