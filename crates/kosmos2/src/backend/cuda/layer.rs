//! One layer of the decoder.

use kernels::cuda::{Device, Norm};

use super::computed::Computed;
use super::layers::{Linear, norm};
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::TextConfig;

pub(super) struct DecoderLayer<T> {
    pub(super) attention_norm: Norm,
    pub(super) qkv: Linear<T>,
    pub(super) inner_attention_norm: Norm,
    pub(super) out: Linear<T>,
    pub(super) final_norm: Norm,
    pub(super) fc1: Linear<T>,
    pub(super) ffn_norm: Norm,
    pub(super) fc2: Linear<T>,
}

impl<T: Computed> DecoderLayer<T> {
    pub(super) fn load(device: &Device, weights: &Weights, config: &TextConfig) -> Result<Self, CheckpointError> {
        let (width, inner, eps) = (config.embed_dim, config.ffn_dim, config.layer_norm_eps);
        let norm = |name, width| norm::<T>(device, &weights.pp(name), width, eps);
        let attention = weights.pp("self_attn");
        Ok(Self {
            attention_norm: norm("self_attn_layer_norm", width)?,
            qkv: Linear::concatenated(device, &attention, &["q_proj", "k_proj", "v_proj"], width, width)?,
            inner_attention_norm: norm("self_attn.inner_attn_ln", width)?,
            out: Linear::load(device, &attention.pp("out_proj"), width, width)?,
            final_norm: norm("final_layer_norm", width)?,
            fc1: Linear::load(device, &weights.pp("ffn.fc1"), width, inner)?,
            ffn_norm: norm("ffn.ffn_layernorm", inner)?,
            fc2: Linear::load(device, &weights.pp("ffn.fc2"), inner, width)?,
        })
    }
}
