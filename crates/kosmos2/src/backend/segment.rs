//! The input of a pass of the decoder.

use std::ops::Range;

use super::embedding::ImageEmbedding;
use crate::error::ModelError;

/// An image embedding and the positions of its rows in a prompt.
#[derive(Debug, Clone, Copy)]
pub struct ImagePlaces<'a> {
    /// The image embedding.
    pub embedding: &'a ImageEmbedding,
    /// 1 for each token of the whole prompt that is replaced by the next row of the embedding, 0 for text. Tokens
    /// beyond its end are text.
    pub mask: &'a [u8],
}

impl ImagePlaces<'_> {
    /// For each of `count` tokens, starting with the sequence's token `first`: the row of the embedding that replaces
    /// it.
    pub(super) fn rows(self, first: usize, count: usize) -> impl Iterator<Item = Option<usize>> {
        let mut next = self.mask.iter().take(first).filter(|&&mark| mark != 0).count();
        (first..first + count).map(move |token| {
            let is_image = self.mask.get(token).is_some_and(|&mark| mark != 0);
            next += usize::from(is_image);
            is_image.then(|| next - 1)
        })
    }
}

/// Keys and values that a sequence copies from another slot in a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFrom {
    /// The slot to copy from. The new tokens of its segment in the same pass can be copied as well.
    pub slot: usize,
    /// The tokens to copy. They have the same positions in both slots.
    pub columns: Range<usize>,
}

/// The new tokens of one sequence in a pass. The segments of a pass have different slots.
#[derive(Debug, Clone)]
pub struct Segment<'a> {
    /// The slot that holds the sequence's keys and values.
    pub slot: usize,
    /// Number of the sequence's tokens before the new ones, including those of `copy`.
    pub cached: usize,
    /// Keys and values to copy from another slot. They are copied layer by layer, so the other sequence may be in the
    /// same pass, but must not copy itself.
    pub copy: Option<CopyFrom>,
    /// The new tokens; at least one.
    pub tokens: &'a [u32],
    /// Number of the cached tokens that are not `<pad>`. Positions count only these.
    pub preceding_non_pad: usize,
    /// The picture, if the sequence has one.
    pub image: Option<ImagePlaces<'a>>,
    /// Indices of the new tokens whose next-token logits are computed.
    pub logits: Range<usize>,
}

/// Checks what every backend requires of its segments.
///
/// # Errors
/// The first problem found: [`ModelError::EmptyPrompt`], [`ModelError::SlotTooShort`], [`ModelError::UnknownToken`] or
/// [`ModelError::Placeholders`].
pub(super) fn check_segments(
    segments: &[Segment],
    slots: usize,
    length: usize,
    vocabulary: usize,
) -> Result<(), ModelError> {
    for segment in segments {
        let end = segment.cached + segment.tokens.len();
        if segment.tokens.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        if segment.slot >= slots || end > length {
            return Err(ModelError::SlotTooShort { tokens: end, length });
        }
        if let Some(&token) = segment.tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(ModelError::UnknownToken { token, vocabulary });
        }
        if let Some(ImagePlaces { embedding, mask }) = segment.image {
            let (found, expected) = (mask.iter().filter(|&&mark| mark != 0).count(), embedding.rows());
            if found != expected {
                return Err(ModelError::Placeholders { found, expected });
            }
        }
    }
    Ok(())
}
