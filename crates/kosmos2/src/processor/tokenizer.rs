//! The tokenizer of a checkpoint (tokenizer.json), and the ids of its tags.

use std::collections::HashSet;
use std::ops::Range;
use std::panic::catch_unwind;
use std::path::Path;

use tokenizers::Tokenizer;

use crate::grounding::grid::GRID_CELLS;
use crate::processor::prompt::tags;
use crate::small_file;

/// Why a tokenizer cannot be loaded, or failed.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file is missing or is not a tokenizer.
    #[error("{file}: cannot be read as a tokenizer ({reason}); a model directory needs its tokenizer.json")]
    File {
        /// Path of the file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A required token is missing.
    #[error("{file}: has no token {token}; it is not the tokenizer of a KOSMOS-2 model")]
    MissingToken {
        /// Path of the file.
        file: String,
        /// The token.
        token: String,
    },
    /// The ids of the patch tokens are not consecutive.
    #[error(
        "{file}: the tokens <patch_index_0000> to <patch_index_1023> are not consecutive; it is not the tokenizer of a KOSMOS-2 model"
    )]
    PatchOrder {
        /// Path of the file.
        file: String,
    },
    /// A text cannot be encoded, or tokens cannot be decoded.
    #[error("the tokenizer failed: {0}")]
    Failed(String),
}

/// A tokenizer of KOSMOS-2. Token ids differ between checkpoints and are looked up by name.
#[derive(Debug, Clone)]
pub struct KosmosTokenizer {
    tokenizer: Tokenizer,
    special: HashSet<u32>,
    bos: u32,
    pad: u32,
    unk: u32,
    first_patch: u32,
}

/// A decoded text with the range of each token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedText {
    /// The text without special tokens and after the clean-up of blanks.
    pub text: String,
    /// The byte range of each token in `text`; empty for tokens that are not part of it.
    pub token_ranges: Vec<Range<usize>>,
}

impl KosmosTokenizer {
    /// Reads tokenizer.json of a model directory.
    ///
    /// # Errors
    /// [`TokenizerError`] if the file is missing or malformed, or lacks a tag or a patch token.
    pub fn from_dir(dir: &Path) -> Result<Self, TokenizerError> {
        let path = dir.join("tokenizer.json");
        let file = path.display().to_string();
        let unreadable = |reason: String| TokenizerError::File { file: file.clone(), reason };
        let bytes = small_file::read(&path, MAX_FILE).map_err(|e| unreadable(e.to_string()))?;
        let mut tokenizer = read(&bytes).map_err(unreadable)?;
        // The file may have padding and truncation settings, which do not apply here.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| unreadable(e.to_string()))?;
        check_ids(&tokenizer).map_err(unreadable)?;
        let id = |token: &str| {
            let missing = || TokenizerError::MissingToken { file: file.clone(), token: token.to_owned() };
            tokenizer.token_to_id(token).ok_or_else(missing)
        };
        for tag in tags::ALL {
            id(tag)?;
        }
        let first_patch = id(&tags::patch(0))?;
        for index in 0..GRID_CELLS {
            if id(&tags::patch(index.into()))? != first_patch + index {
                return Err(TokenizerError::PatchOrder { file });
            }
        }
        let (bos, pad, unk) = (id("<s>")?, id("<pad>")?, id("<unk>")?);
        let special =
            tokenizer.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special).map(|(id, _)| id);
        Ok(Self { special: special.collect(), bos, pad, unk, first_patch, tokenizer })
    }

    /// Size of the vocabulary, tags included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The id of `<s>`.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// The id of `<pad>`.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The ids of the patch tokens, in order.
    pub fn patches(&self) -> Range<u32> {
        self.first_patch..self.first_patch + GRID_CELLS
    }

    /// The id of the first image placeholder; the others follow it. As in the reference it is the one after `<unk>`.
    /// The placeholders are ids of ordinary words, whose embeddings are replaced.
    pub fn first_image_token(&self) -> u32 {
        self.unk + 1
    }

    /// The id of a token, if it is in the vocabulary.
    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The token with an id, as spelled in the vocabulary, where `▁` is a blank.
    pub(crate) fn piece(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// Whether decoding omits a token.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Whether the token controls the model: a tag, a patch token or a special token other than `<unk>`, which stands
    /// for unknown text.
    pub(crate) fn is_control(&self, id: u32) -> bool {
        id != self.unk && (self.is_special(id) || self.is_tag(id))
    }

    /// Whether the token is a single blank.
    pub(crate) fn is_blank(&self, id: u32) -> bool {
        self.piece(id).is_some_and(|piece| piece == "▁")
    }

    /// Whether the token is a tag or a patch token.
    pub(crate) fn is_tag(&self, id: u32) -> bool {
        self.patches().contains(&id) || self.piece(id).is_some_and(|piece| tags::ALL.contains(&piece.as_str()))
    }

    /// Encodes a text, between `<s>` and `</s>` if special tokens are added.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] if the tokenizer fails.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.tokenizer.encode_fast(text, add_special_tokens);
        Ok(encoding.map_err(|e| TokenizerError::Failed(e.to_string()))?.get_ids().to_vec())
    }

    /// Decodes token ids like the reference's `decode`. `clean_up` removes blanks before punctuation.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] if the tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool, clean_up: bool) -> Result<String, TokenizerError> {
        let text = self.tokenizer.decode(ids, skip_special).map_err(|e| TokenizerError::Failed(e.to_string()))?;
        Ok(if clean_up { CLEAN_UPS.iter().fold(text, |text, (from, to)| text.replace(from, to)) } else { text })
    }

    /// Like [`decode`](Self::decode) without special tokens and with the clean-up, with the range of each token.
    pub fn decode_with_offsets(&self, ids: &[u32]) -> DecodedText {
        let mut traced = TracedText::default();
        let mut is_first = true;
        for (index, &id) in ids.iter().enumerate() {
            let Some(piece) = self.tokenizer.id_to_token(id).filter(|_| !self.special.contains(&id)) else {
                continue;
            };
            // "▁" is a blank, except at the start of the text.
            traced.push(&piece.replace('▁', if is_first { "" } else { " " }), index);
            is_first = false;
        }
        for (from, to) in CLEAN_UPS {
            traced.replace(from, to);
        }
        traced.finish(ids.len())
    }
}

/// Maximum size of tokenizer.json. The published file has 5 MB.
const MAX_FILE: u64 = 256 << 20;

/// Parses the file. The tokenizers crate panics on some malformed files.
fn read(bytes: &[u8]) -> Result<Tokenizer, String> {
    match catch_unwind(|| Tokenizer::from_bytes(bytes)) {
        Ok(Ok(tokenizer)) => Ok(tokenizer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("its contents are malformed".into()),
    }
}

/// Checks that all ids are below the vocabulary's size, since they index rows of logits. The template's ids are checked
/// by encoding a text.
fn check_ids(tokenizer: &Tokenizer) -> Result<(), String> {
    let size = tokenizer.get_vocab_size(true);
    let too_large = |id: u32| format!("it has {size} tokens, but id {id}; ids must be consecutive from 0");
    if let Some(&id) = tokenizer.get_vocab(true).values().find(|&&id| id as usize >= size) {
        return Err(too_large(id));
    }
    let trial = catch_unwind(std::panic::AssertUnwindSafe(|| tokenizer.encode_fast("An image of ä, 1", true)));
    let encoding = trial.map_err(|_| "it cannot encode a text")?.map_err(|e| e.to_string())?;
    encoding.get_ids().iter().find(|&&id| id as usize >= size).map_or(Ok(()), |&id| Err(too_large(id)))
}

/// The replacements of the reference's clean-up, in order.
const CLEAN_UPS: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// A text with the token index of each byte, in ascending order.
#[derive(Default)]
struct TracedText {
    text: String,
    tokens: Vec<usize>,
}

impl TracedText {
    fn push(&mut self, piece: &str, token: usize) {
        self.text.push_str(piece);
        self.tokens.resize(self.text.len(), token);
    }

    /// Replaces every `from` by `to`, which must be `from` without its leading or trailing blanks.
    fn replace(&mut self, from: &str, to: &str) {
        if !self.text.contains(from) {
            return;
        }
        let skipped = from.len() - from.trim_start().len();
        let mut result = Self::default();
        let mut copied = 0;
        let mut copy = |range: Range<usize>| {
            result.text.push_str(&self.text[range.clone()]);
            result.tokens.extend_from_slice(&self.tokens[range]);
        };
        for (at, _) in self.text.match_indices(from) {
            copy(copied..at);
            copy(at + skipped..at + skipped + to.len());
            copied = at + from.len();
        }
        copy(copied..self.text.len());
        *self = result;
    }

    fn finish(self, tokens: usize) -> DecodedText {
        let mut token_ranges = Vec::with_capacity(tokens);
        let mut at = 0;
        for token in 0..tokens {
            let end = at + self.tokens[at..].partition_point(|&index| index <= token);
            token_ranges.push(at..end);
            at = end;
        }
        DecodedText { text: self.text, token_ranges }
    }
}
