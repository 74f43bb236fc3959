//! Errors of the model.

use crate::options::OptionsError;

/// Why a pass or a decoding failed.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// An option is out of range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The logits are not finite.
    #[error("the model's logits are not finite; the weights are damaged or the number format is too narrow for them")]
    NotFinite,
    /// The number of image placeholders in a prompt is wrong.
    #[error("the prompt has {found} image placeholders, but the picture has {expected} embeddings")]
    Placeholders {
        /// Placeholders in the prompt.
        found: usize,
        /// Rows of the image embedding.
        expected: usize,
    },
    /// The prompt has no tokens.
    #[error("the prompt has no tokens; add special tokens or text")]
    EmptyPrompt,
    /// The pixel values do not have the model's size.
    #[error("the picture has been resized to {found} pixels a side, but the model takes {expected}")]
    PictureSize {
        /// Pixels on each side.
        found: usize,
        /// The model's size.
        expected: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("token {token} is not in the vocabulary of {vocabulary} tokens")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A sequence does not fit into its slot, or the slot does not exist.
    #[error("a sequence of {tokens} tokens does not fit into a slot of {length}")]
    SlotTooShort {
        /// Tokens of the sequence.
        tokens: usize,
        /// Tokens of a slot.
        length: usize,
    },
    /// A tensor operation failed.
    #[error("the computation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A CUDA operation failed.
    #[cfg(feature = "cuda-api")]
    #[error("the computation failed: {0}")]
    Cuda(#[from] kernels::cuda::CudaError),
}
