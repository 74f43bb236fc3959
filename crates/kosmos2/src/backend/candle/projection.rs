//! From vision features to image embeddings: latent queries attend to the features and to themselves (KOSMOS-2, Peng et
//! al., 2023, <https://arxiv.org/abs/2306.14824>). Weights: `image_to_text_projection.*`.
//!
//! The attention has no causal mask, as in eager attention of transformers and in all attention of its later releases.
//! The default (sdpa) attention of releases up to 5.17 applies a causal mask by mistake, which the checkpoint was not
//! trained with.

use candle_core::{Result, Tensor};
use candle_nn::{Linear, Module};

use super::layers::{AttentionLinears, attend, join_heads, linear, split_heads};
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::Config;

/// The cross-attention of the latent queries.
pub(super) struct ImageToTextProjection {
    dense: Linear,
    latent_query: Tensor,
    attention: AttentionLinears,
    heads: usize,
}

impl ImageToTextProjection {
    pub(super) fn load(weights: &Weights, config: &Config) -> std::result::Result<Self, CheckpointError> {
        let width = config.text_config.embed_dim;
        Ok(Self {
            dense: linear(&weights.pp("dense"), config.vision_config.hidden_size, width)?,
            latent_query: weights.get([config.latent_query_num, width], "latent_query")?,
            attention: AttentionLinears::load(&weights.pp("x_attn"), width)?,
            heads: config.text_config.attention_heads,
        })
    }

    /// Features `[B, 1 + patches, hidden]` to image embeddings `[B, queries, width]`.
    ///
    /// # Errors
    /// candle's error if the device fails.
    pub(super) fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let h = self.dense.forward(features)?;
        let (queries, width) = self.latent_query.dims2()?;
        let latent = self.latent_query.expand((h.dim(0)?, queries, width))?.contiguous()?;
        let context = Tensor::cat(&[&h, &latent], 1)?; // [B, 1 + patches + queries, width]
        let AttentionLinears { q, k, v, out } = &self.attention;
        let heads = |map: &Linear, x: &Tensor| split_heads(&map.forward(x)?, self.heads);
        out.forward(&join_heads(&attend(&heads(q, &latent)?, &heads(k, &context)?, &heads(v, &context)?, None)?)?)
    }
}
