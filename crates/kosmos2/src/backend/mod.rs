//! Backends: implementations of the model. The CPU's packed kernels and the kernels for NVIDIA GPUs are both tested
//! against the plain candle implementation.
//!
//! A pass of the decoder is ragged: it takes any number of sequences, each with any number of new tokens, without
//! padding. Prompts and newest tokens run in the same pass, and a sequence's result does not depend on the batch.

pub(crate) mod candle;
pub(crate) mod cpu;
#[cfg(feature = "cuda-api")]
pub(crate) mod cuda;
mod embedding;
mod interface;
mod logits;
mod positions;
mod segment;

pub use embedding::ImageEmbedding;
pub use interface::{Backend, PreferredBatches};
#[cfg(test)]
pub(crate) use logits::choose_best;
pub use logits::{ChosenToken, Logits, LogitsOutput, LogitsRequest, TokenMask, split_outputs};
pub use segment::{CopyFrom, ImagePlaces, Segment};
