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
    /// Keep the markup well formed, cut rows included (see [`grammar`](crate::grounding::grammar)). The reference has
    /// nothing like it; what it decodes well formed comes out the same.
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
    /// The best of several texts that are followed side by side; nothing is drawn.
    Beam(BeamOptions),
}

/// A beam search, as the reference's `generate` has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BeamOptions {
    /// Texts followed side by side, 2 to 64; with one it would be [`Sampling::Greedy`].
    pub num_beams: usize,
    /// An ended text's score is its summed log-probability divided by its generated length, `</s>` included, to this power.
    pub length_penalty: f32,
    /// When to stop looking for better texts.
    pub early_stopping: EarlyStopping,
}

impl Default for BeamOptions {
    fn default() -> Self {
        Self { num_beams: 4, length_penalty: 1.0, early_stopping: EarlyStopping::No }
    }
}

impl BeamOptions {
    fn check(&self) -> Result<(), OptionsError> {
        let refuse = |name, found: String, expected| Err(OptionsError { name, found, expected });
        if !(2..=64).contains(&self.num_beams) {
            return refuse("num_beams", self.num_beams.to_string(), "2 to 64 (without beams the search is greedy)");
        }
        // Beyond 16 the power of a long text's length overflows f32.
        if !(-8.0..=8.0).contains(&self.length_penalty) {
            return refuse("length_penalty", self.length_penalty.to_string(), "a number from -8 to 8");
        }
        Ok(())
    }
}

/// When a beam search with as many ended texts as beams stops before the token limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyStopping {
    /// At once.
    Yes,
    /// When the best open text, scored at its present length, is no better than the worst ended one.
    No,
    /// When the best open text is no better even at the most favourable length: the token limit's where longer texts
    /// are favoured (`length_penalty` above 0), the present one's otherwise.
    Never,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model said `</s>`.
    Stop,
    /// `max_new_tokens` was reached: the text is cut.
    Length,
    /// Nothing was generated: a given text was scored.
    Scored,
}

/// One prompt's answer, or a given text with its probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct GroundedText {
    /// The prompt as fed to the model, boxes inserted, without the image placeholders.
    pub prompt: String,
    /// Tokens that were given, image placeholders included.
    pub prompt_tokens: usize,
    /// Prompt and generated text without tags, as the reference's `post_process_generation` returns it.
    pub text: String,
    /// Prompt and generated text with tags, as `post_process_generation(cleanup_and_extract=False)` returns it.
    pub raw_text: String,
    /// The new tokens: generated ones, `</s>` included where it was reached, or scored ones.
    pub token_ids: Vec<u32>,
    /// Natural-log probability of each new token under the raw logits (before penalties, bans and temperature).
    pub logprobs: Vec<f32>,
    /// Phrases and their boxes, in reading order.
    pub entities: Vec<ScoredEntity>,
    /// Why the generation ended.
    pub finish_reason: FinishReason,
}

impl GroundedText {
    /// The mean negative log-probability of the new tokens, text and location tokens alike. For a scored text it is what
    /// transformers gives as the loss for `labels` that leave the prompt out; for a generated one, the model's doubt.
    pub fn loss(&self) -> f32 {
        let sum: f64 = self.logprobs.iter().map(|&logprob| f64::from(logprob)).sum();
        (-sum / self.logprobs.len() as f64) as f32
    }
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
    /// Each box finer than the grid: its corners where the model's probabilities lie between the cells; `None` where
    /// the box was not generated.
    pub refined_boxes: Vec<Option<BoundingBox>>,
}
