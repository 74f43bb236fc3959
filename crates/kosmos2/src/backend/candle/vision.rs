//! The CLIP vision transformer (Radford et al., 2021, <https://arxiv.org/abs/2103.00020>), under the names
//! `vision_model.model.*` of `microsoft/kosmos-2-patch14-224`.

use candle_core::{Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module};

use super::layers::{AttentionMaps, attend, join_heads, l2_normalize, layer_norm, linear, split_heads};
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::VisionConfig;

/// Pictures to features: one for the class token and one for each patch.
pub(super) struct VisionTower {
    embeddings: Embeddings,
    pre_layer_norm: LayerNorm,
    layers: Vec<Layer>,
    post_layer_norm: LayerNorm,
}

impl VisionTower {
    pub(super) fn load(weights: &Weights, config: &VisionConfig) -> std::result::Result<Self, CheckpointError> {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let layers = weights.pp("encoder.layers");
        Ok(Self {
            embeddings: Embeddings::load(&weights.pp("embeddings"), config)?,
            // The checkpoint's own spelling.
            pre_layer_norm: layer_norm(&weights.pp("pre_layrnorm"), width, eps)?,
            layers: (0..config.num_hidden_layers)
                .map(|n| Layer::load(&layers.pp(n), config))
                .collect::<std::result::Result<_, _>>()?,
            post_layer_norm: layer_norm(&weights.pp("post_layernorm"), width, eps)?,
        })
    }

    /// Pixels [B, 3, S, S] to features [B, 1 + patches, hidden]: normalised by the post layer norm and then to unit
    /// length, all tokens and not only the class token, as the language model takes them.
    ///
    /// # Errors
    /// candle's, when shapes or the device fail.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.pre_layer_norm.forward(&self.embeddings.forward(pixels)?)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        l2_normalize(&self.post_layer_norm.forward(&x)?)
    }
}

struct Embeddings {
    /// The patch convolution as a matrix [hidden, 3·patch·patch]: its stride is its size, so patches never overlap.
    patch: Linear,
    class: Tensor,
    position: Tensor,
    patch_size: usize,
}

impl Embeddings {
    fn load(weights: &Weights, config: &VisionConfig) -> std::result::Result<Self, CheckpointError> {
        let (hidden, side) = (config.hidden_size, config.patch_size);
        let patch = weights.get([hidden, config.num_channels, side, side], "patch_embedding.weight")?;
        let flat = patch.flatten_from(1).map_err(|source| CheckpointError::Tensor {
            file: "config.json".into(),
            tensor: "patch_embedding.weight".into(),
            cause: Box::new(source),
        })?;
        Ok(Self {
            patch: Linear::new(flat, None),
            class: weights.get([hidden], "class_embedding")?,
            position: weights.get([config.patches() + 1, hidden], "position_embedding.weight")?,
            patch_size: side,
        })
    }

    fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = pixels.dims4()?;
        let p = self.patch_size;
        let (rows, columns) = (height / p, width / p);
        let patches = pixels
            .reshape((batch, channels, rows, p, columns, p))?
            .permute((0, 2, 4, 1, 3, 5))? // [B, rows, columns, 3, p, p]
            .reshape((batch, rows * columns, channels * p * p))?;
        let patches = self.patch.forward(&patches)?; // [B, rows·columns, hidden]
        let hidden = self.class.dim(0)?;
        let class = self.class.expand((batch, 1, hidden))?;
        Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.position)
    }
}

struct Layer {
    layer_norm1: LayerNorm,
    attention: AttentionMaps,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
}

impl Layer {
    fn load(weights: &Weights, config: &VisionConfig) -> std::result::Result<Self, CheckpointError> {
        let (width, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        Ok(Self {
            layer_norm1: layer_norm(&weights.pp("layer_norm1"), width, eps)?,
            attention: AttentionMaps::load(&weights.pp("self_attn"), width)?,
            layer_norm2: layer_norm(&weights.pp("layer_norm2"), width, eps)?,
            fc1: linear(&weights.pp("mlp.fc1"), width, inner)?,
            fc2: linear(&weights.pp("mlp.fc2"), inner, width)?,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let AttentionMaps { q, k, v, out } = &self.attention;
        let normed = self.layer_norm1.forward(x)?;
        let heads = |map: &Linear| split_heads(&map.forward(&normed)?, self.heads);
        let x = (x + out.forward(&join_heads(&attend(&heads(q)?, &heads(k)?, &heads(v)?, None)?)?)?)?;
        let inner = quick_gelu(&self.fc1.forward(&self.layer_norm2.forward(&x)?)?)?;
        &x + self.fc2.forward(&inner)?
    }
}

/// x · sigmoid(1.702 x), the approximation of GELU that CLIP was trained with.
fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    x * candle_nn::ops::sigmoid(&(x * 1.702)?)?
}
