//! Linear maps, layer norms and attention, shared by the vision tower, the projection and the decoder.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::{LayerNorm, Linear};

use crate::checkpoint::{CheckpointError, Weights};

/// `y = x Wᵀ + b` with `weight` `[out, in]` and `bias` `[out]`.
pub(super) fn linear(weights: &Weights, inner: usize, outer: usize) -> std::result::Result<Linear, CheckpointError> {
    Ok(Linear::new(weights.get([outer, inner], "weight")?, Some(weights.get([outer], "bias")?)))
}

/// Layer norm over the last dimension, with `weight` and `bias` `[width]`.
pub(super) fn layer_norm(weights: &Weights, width: usize, eps: f64) -> std::result::Result<LayerNorm, CheckpointError> {
    Ok(LayerNorm::new(weights.get([width], "weight")?, weights.get([width], "bias")?, eps))
}

/// The query, key, value and output maps of an attention layer, all with biases.
pub(super) struct AttentionLinears {
    pub(super) q: Linear,
    pub(super) k: Linear,
    pub(super) v: Linear,
    pub(super) out: Linear,
}

impl AttentionLinears {
    pub(super) fn load(weights: &Weights, width: usize) -> std::result::Result<Self, CheckpointError> {
        let map = |name| linear(&weights.pp(name), width, width);
        Ok(Self { q: map("q_proj")?, k: map("k_proj")?, v: map("v_proj")?, out: map("out_proj")? })
    }
}

/// `[B, T, heads·d]` to `[B, heads, T, d]`
pub(super) fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, len, width) = x.dims3()?;
    x.reshape((batch, len, heads, width / heads))?.transpose(1, 2)?.contiguous()
}

/// softmax(q kᵀ / √d + mask) v for q `[B, H, T, d]`, k and v `[B, H, S, d]` and a mask that broadcasts to
/// `[B, H, T, S]`. Returns `[B, H, T, d]`.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let head_dim = q.dim(candle_core::D::Minus1)?;
    let scores = (q * (head_dim as f64).powf(-0.5))?.matmul(&k.transpose(2, 3)?)?;
    let scores = match mask {
        Some(mask) => scores.broadcast_add(mask)?,
        None => scores,
    };
    candle_nn::ops::softmax_last_dim(&scores)?.matmul(v)
}

/// `[B, heads, T, d]` to `[B, T, heads·d]`
pub(super) fn join_heads(x: &Tensor) -> Result<Tensor> {
    let (batch, heads, len, head_dim) = x.dims4()?;
    x.transpose(1, 2)?.reshape((batch, len, heads * head_dim))
}

/// x / max(‖x‖₂, 1e-12) over the last dimension.
pub(super) fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    // Squares of half-precision values overflow or underflow, so the norm is computed in f32.
    let wide = x.to_dtype(DType::F32)?;
    let norm = wide.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
    wide.broadcast_div(&norm)?.to_dtype(x.dtype())
}
