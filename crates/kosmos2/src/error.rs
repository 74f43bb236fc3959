//! Why the model fails.

use crate::options::OptionsError;

/// Why a generation failed.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// An option is out of its range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The model gave no finite logits.
    #[error("the model's logits are not finite; the weights are damaged or the number format is too narrow for them")]
    NotFinite,
    /// A prompt that does not fit its picture.
    #[error("the prompt has {found} image placeholders, but the picture has {expected} embeddings")]
    Placeholders {
        /// Marked places in the prompt.
        found: usize,
        /// Latent queries of the model.
        expected: usize,
    },
    /// A prompt of no tokens.
    #[error("the prompt has no tokens; ask for special tokens or give some text")]
    EmptyPrompt,
    /// A picture of another size than the model's.
    #[error("the picture has been resized to {found} pixels a side, but the model takes {expected}")]
    PictureSize {
        /// Its side.
        found: usize,
        /// The model's.
        expected: usize,
    },
    /// An id beyond the vocabulary.
    #[error("token {token} is beyond the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A sequence longer than what was reserved for it.
    #[error("a sequence of {tokens} tokens does not fit a slot of {length}")]
    SlotTooShort {
        /// Tokens of the sequence.
        tokens: usize,
        /// Tokens a slot has room for.
        length: usize,
    },
    /// A tensor operation failed.
    #[error("the computation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The card failed.
    #[cfg(feature = "cuda-api")]
    #[error("the computation failed: {0}")]
    Cuda(#[from] kernels::cuda::CudaError),
}
