//! Encodes prompts as token ids and masks, like the reference's `Kosmos2Processor`.

use super::error::PromptError;
use super::input::Prompt;
use super::{boxes, tags};
use crate::grounding::markup::trim;
use crate::processor::tokenizer::KosmosTokenizer;

/// What is added to a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Prepend the image placeholders.
    pub image: bool,
    /// Append `</s>`, if `add_special_tokens` is set.
    pub add_eos: bool,
    /// Prepend `<s>`.
    pub add_special_tokens: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { image: true, add_eos: false, add_special_tokens: true }
    }
}

/// A prompt as token ids. The three lists have the same length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPrompt {
    /// The trimmed text with inserted boxes, without image placeholders.
    pub text: String,
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// 1 for tokens, 0 for padding.
    pub attention_mask: Vec<u8>,
    /// 1 for image placeholders, 0 for other tokens; `None` without a picture.
    pub image_embeds_position_mask: Option<Vec<u8>>,
}

impl EncodedPrompt {
    /// Appends a text token.
    pub(crate) fn push(&mut self, token: u32) {
        self.input_ids.push(token);
        self.attention_mask.push(1);
        if let Some(mask) = &mut self.image_embeds_position_mask {
            mask.push(0);
        }
    }
}

/// The side of padding tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaddingSide {
    /// Before the prompt, as the reference requires for generation.
    Left,
    /// After the prompt.
    Right,
}

/// Encodes prompts as token ids.
#[derive(Debug, Clone)]
pub struct TextProcessor {
    tokenizer: KosmosTokenizer,
    image_tokens: usize,
    /// `<image>`, the placeholders, `</image>`.
    image: String,
}

impl TextProcessor {
    /// A processor for a model with `image_tokens` rows in an image embedding.
    pub fn new(tokenizer: KosmosTokenizer, image_tokens: usize) -> Self {
        let mut image = format!("{} ", tags::IMAGE_OPEN).repeat(image_tokens + 1);
        image.push_str(tags::IMAGE_CLOSE);
        Self { tokenizer, image_tokens, image }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &KosmosTokenizer {
        &self.tokenizer
    }

    /// Encodes a prompt.
    ///
    /// # Errors
    /// [`PromptError::BoxCount`] if the boxes do not match the phrases, [`PromptError::BoxCorners`] if a box is
    /// invalid, [`PromptError::Tokenizer`] if the tokenizer fails.
    pub fn encode(&self, prompt: &Prompt, options: &EncodeOptions) -> Result<EncodedPrompt, PromptError> {
        let text = boxes::insert(trim(&prompt.text), prompt.boxes.as_deref())?;
        let add_eos = options.add_eos && options.add_special_tokens;
        // The tokenizer's template adds both `<s>` and `</s>` or neither, so `<s>` alone is added as text.
        let start = if options.add_special_tokens && !add_eos { "<s>" } else { "" };
        let full = if options.image { format!("{start}{} {text}", self.image) } else { format!("{start}{text}") };
        let mut input_ids = self.tokenizer.encode(&full, add_eos)?;
        let mask = options.image.then(|| {
            let first = 1 + usize::from(options.add_special_tokens);
            self.mark_image(&mut input_ids, first)
        });
        Ok(EncodedPrompt {
            text,
            attention_mask: vec![1; input_ids.len()],
            image_embeds_position_mask: mask,
            input_ids,
        })
    }

    /// Encodes an untrusted prompt with the default options. Tags and special tokens must be spelled out in it: the
    /// tokenizer normalizes characters, so that `＜/s＞` would otherwise become the end of the text.
    ///
    /// # Errors
    /// [`PromptError::DisguisedTag`] if other characters become a tag, and the errors of [`encode`](Self::encode).
    pub fn encode_untrusted(&self, prompt: &Prompt) -> Result<EncodedPrompt, PromptError> {
        let encoded = self.encode(prompt, &EncodeOptions::default())?;
        // `<s>`, `<image>`, the placeholders, `</image>`.
        let words = encoded.input_ids.get(self.image_tokens + 3..).unwrap_or_default();
        let is_control = |id: &&u32| self.tokenizer.is_control(**id);
        if words.iter().filter(is_control).count() <= tags::count(&encoded.text) {
            return Ok(encoded);
        }
        // The first one that is not spelled out.
        let pieces = words.iter().filter(is_control).filter_map(|&id| self.tokenizer.piece(id));
        let mut disguised = pieces.filter(|piece| !encoded.text.contains(piece.as_str()));
        Err(PromptError::DisguisedTag(disguised.next().unwrap_or_else(|| "</s>".to_owned())))
    }

    /// Replaces the image placeholders, which are encoded as `<image>`, by their ids, and returns the mask of them.
    fn mark_image(&self, ids: &mut [u32], first: usize) -> Vec<u8> {
        let mut mask = vec![0; ids.len()];
        let placeholders = ids.iter_mut().zip(&mut mask).skip(first).take(self.image_tokens);
        for ((id, mark), placeholder) in placeholders.zip(self.tokenizer.first_image_token()..) {
            (*id, *mark) = (placeholder, 1);
        }
        mask
    }

    /// Removes blanks after tags, from the token `from` on. The tokenizer adds them because it encodes the text after
    /// each tag separately, so that `</object>.` becomes `</object> .`. The model never generates them.
    pub(crate) fn remove_added_blanks(&self, prompt: &mut EncodedPrompt, from: usize) {
        let ids = &prompt.input_ids;
        let is_added = |at: usize| {
            at > 0 && at + 1 < ids.len() && self.tokenizer.is_blank(ids[at]) && self.tokenizer.is_tag(ids[at - 1])
        };
        let kept: Vec<usize> = (0..ids.len()).filter(|&at| at < from || !is_added(at)).collect();
        prompt.input_ids = kept.iter().map(|&at| ids[at]).collect();
        prompt.attention_mask.truncate(kept.len());
        if let Some(mask) = &mut prompt.image_embeds_position_mask {
            mask.truncate(kept.len());
        }
    }

    /// Pads prompts to the length of the longest, and at least to `min_length`.
    pub fn pad(&self, prompts: &mut [EncodedPrompt], side: PaddingSide, min_length: usize) {
        let longest = prompts.iter().map(|prompt| prompt.input_ids.len()).max().unwrap_or(0).max(min_length);
        for prompt in prompts {
            let missing = longest - prompt.input_ids.len();
            pad_with(&mut prompt.input_ids, self.tokenizer.pad(), missing, side);
            pad_with(&mut prompt.attention_mask, 0, missing, side);
            if let Some(mask) = &mut prompt.image_embeds_position_mask {
                pad_with(mask, 0, missing, side);
            }
        }
    }
}

fn pad_with<T: Copy>(row: &mut Vec<T>, value: T, count: usize, side: PaddingSide) {
    row.resize(row.len() + count, value);
    if side == PaddingSide::Left {
        row.rotate_right(count);
    }
}
