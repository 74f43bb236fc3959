//! From vision features to the decoder's image embeddings: latent queries attend over the features and themselves
//! (KOSMOS-2, Peng et al., 2023, <https://arxiv.org/abs/2306.14824>); names `image_to_text_projection.*`.
//!
//! The attention is not causal. transformers releases up to 5.17 mark it causal and obey that mark on their default
//! sdpa path, which gives other embeddings; the checkpoint was trained without, and eager attention and later
//! releases compute it so.

use candle_core::{Result, Tensor};
use candle_nn::{Linear, Module};

use super::layers::{AttentionMaps, attend, join_heads, linear, split_heads};
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::Config;

/// The cross-attention of the latent queries.
pub(super) struct ImageToTextProjection {
    dense: Linear,
    latent_query: Tensor,
    attention: AttentionMaps,
    heads: usize,
}

impl ImageToTextProjection {
    pub(super) fn load(weights: &Weights, config: &Config) -> std::result::Result<Self, CheckpointError> {
        let width = config.text_config.embed_dim;
        Ok(Self {
            dense: linear(&weights.pp("dense"), config.vision_config.hidden_size, width)?,
            latent_query: weights.get([config.latent_query_num, width], "latent_query")?,
            attention: AttentionMaps::load(&weights.pp("x_attn"), width)?,
            heads: config.text_config.attention_heads,
        })
    }

    /// Features [B, 1 + patches, hidden] to image embeddings [B, queries, width].
    ///
    /// # Errors
    /// candle's, when shapes or the device fail.
    pub(super) fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let h = self.dense.forward(features)?;
        let (queries, width) = self.latent_query.dims2()?;
        let latent = self.latent_query.expand((h.dim(0)?, queries, width))?.contiguous()?;
        let context = Tensor::cat(&[&h, &latent], 1)?; // [B, 1 + patches + queries, width]
        let AttentionMaps { q, k, v, out } = &self.attention;
        let heads = |map: &Linear, x: &Tensor| split_heads(&map.forward(x)?, self.heads);
        out.forward(&join_heads(&attend(&heads(q, &latent)?, &heads(k, &context)?, &heads(v, &context)?, None)?)?)
    }
}
