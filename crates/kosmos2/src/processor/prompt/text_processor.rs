//! Prompts to token ids and masks, as the reference's `Kosmos2Processor`.

use super::{Prompt, PromptError, boxes, tags};
use crate::grounding::markup::trim;
use crate::processor::tokenizer::KosmosTokenizer;

/// What goes around a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Put the picture's placeholders before it.
    pub image: bool,
    /// Put `</s>` behind it, where special tokens are added.
    pub add_eos: bool,
    /// Put `<s>` before it.
    pub add_special_tokens: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { image: true, add_eos: false, add_special_tokens: true }
    }
}

/// A prompt as the model takes it. The three lists have the same length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPrompt {
    /// The prompt with its boxes written in, trimmed, without the picture's placeholders.
    pub text: String,
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// 1 for tokens, 0 for padding.
    pub attention_mask: Vec<u8>,
    /// 1 where an image embedding overwrites the token's; `None` without a picture.
    pub image_embeds_position_mask: Option<Vec<u8>>,
}

impl EncodedPrompt {
    /// Puts one more text token behind it.
    pub(crate) fn push(&mut self, token: u32) {
        self.input_ids.push(token);
        self.attention_mask.push(1);
        if let Some(mask) = &mut self.image_embeds_position_mask {
            mask.push(0);
        }
    }
}

/// Where padding goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaddingSide {
    /// Before the prompt, as generation needs it.
    Left,
    /// Behind it.
    Right,
}

/// Turns prompts into tokens.
#[derive(Debug, Clone)]
pub struct TextProcessor {
    tokenizer: KosmosTokenizer,
    image_tokens: usize,
    /// `<image>`, the placeholders, `</image>`.
    picture: String,
}

impl TextProcessor {
    /// A processor for a model that turns a picture into `image_tokens` embeddings.
    pub fn new(tokenizer: KosmosTokenizer, image_tokens: usize) -> Self {
        let mut picture = format!("{} ", tags::IMAGE_OPEN).repeat(image_tokens + 1);
        picture.push_str(tags::IMAGE_CLOSE);
        Self { tokenizer, image_tokens, picture }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &KosmosTokenizer {
        &self.tokenizer
    }

    /// Encodes one prompt.
    ///
    /// # Errors
    /// [`PromptError`] when its boxes are not valid or do not fit its phrases.
    pub fn encode(&self, prompt: &Prompt, options: &EncodeOptions) -> Result<EncodedPrompt, PromptError> {
        let text = boxes::insert(trim(&prompt.text), prompt.boxes.as_deref())?;
        let add_eos = options.add_eos && options.add_special_tokens;
        // The tokenizer's own template adds both ends or none, so `<s>` alone goes in as text.
        let start = if options.add_special_tokens && !add_eos { "<s>" } else { "" };
        let full = if options.image { format!("{start}{} {text}", self.picture) } else { format!("{start}{text}") };
        let mut input_ids = self.tokenizer.encode(&full, add_eos)?;
        let mask = options.image.then(|| {
            let first = 1 + usize::from(options.add_special_tokens);
            self.place_picture(&mut input_ids, first)
        });
        Ok(EncodedPrompt {
            text,
            attention_mask: vec![1; input_ids.len()],
            image_embeds_position_mask: mask,
            input_ids,
        })
    }

    /// As [`encode`](Self::encode) with the default options, for a prompt that comes from somebody else: every token
    /// with a meaning of its own must stand in it letter by letter. The tokenizer makes characters alike before it cuts
    /// words into pieces, so that `＜/s＞` would come out as the end of the text.
    ///
    /// # Errors
    /// [`PromptError`], also [`PromptError::DisguisedTag`].
    pub fn encode_plain(&self, prompt: &Prompt) -> Result<EncodedPrompt, PromptError> {
        let encoded = self.encode(prompt, &EncodeOptions::default())?;
        // `<s>`, `<image>`, the placeholders, `</image>`.
        let words = encoded.input_ids.get(self.image_tokens + 3..).unwrap_or_default();
        let acts = |id: &&u32| self.tokenizer.acts(**id);
        if words.iter().filter(acts).count() <= tags::count_in(&encoded.text) {
            return Ok(encoded);
        }
        // One that is not written out; which of several does not matter.
        let pieces = words.iter().filter(acts).filter_map(|&id| self.tokenizer.piece(id));
        let mut hidden = pieces.filter(|piece| !encoded.text.contains(piece.as_str()));
        Err(PromptError::DisguisedTag(hidden.next().unwrap_or_else(|| "</s>".to_owned())))
    }

    /// Gives the placeholders, tokenized as `<image>` each, their ids, and marks their places.
    fn place_picture(&self, ids: &mut [u32], first: usize) -> Vec<u8> {
        let mut mask = vec![0; ids.len()];
        let places = ids.iter_mut().zip(&mut mask).skip(first).take(self.image_tokens);
        for ((id, mark), placeholder) in places.zip(self.tokenizer.first_image_token()..) {
            (*id, *mark) = (placeholder, 1);
        }
        mask
    }

    /// Takes out blanks behind tags, from the token `from` on, that the tokenizer makes up: it begins anew behind every
    /// tag, so that `</object>.` gets a `▁` before the point, which the model itself never writes.
    pub(crate) fn drop_lone_blanks(&self, prompt: &mut EncodedPrompt, from: usize) {
        let ids = &prompt.input_ids;
        let lone = |at: usize| {
            at > 0 && at + 1 < ids.len() && self.tokenizer.is_lone_blank(ids[at]) && self.tokenizer.is_tag(ids[at - 1])
        };
        let kept: Vec<usize> = (0..ids.len()).filter(|&at| at < from || !lone(at)).collect();
        prompt.input_ids = kept.iter().map(|&at| ids[at]).collect();
        prompt.attention_mask.truncate(kept.len());
        if let Some(mask) = &mut prompt.image_embeds_position_mask {
            mask.truncate(kept.len());
        }
    }

    /// Pads prompts to the longest of them, and to `least` tokens at least.
    pub fn pad(&self, prompts: &mut [EncodedPrompt], side: PaddingSide, least: usize) {
        let longest = prompts.iter().map(|prompt| prompt.input_ids.len()).max().unwrap_or(0).max(least);
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
