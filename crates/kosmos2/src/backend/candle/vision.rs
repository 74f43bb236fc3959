//! The CLIP vision transformer (Radford et al., 2021, <https://arxiv.org/abs/2103.00020>). Weights:
//! `vision_model.model.*`.
//!
//! candle-transformers has this network too, but with a fixed epsilon and a random class embedding where the checkpoint
//! has none. A test compares the two.

use candle_core::{Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module};

use super::layers::{AttentionLinears, attend, join_heads, l2_normalize, layer_norm, linear, split_heads};
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::VisionConfig;

/// Maps pictures to features: one for the class token and one for each patch.
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
            // The checkpoint's spelling.
            pre_layer_norm: layer_norm(&weights.pp("pre_layrnorm"), width, eps)?,
            layers: (0..config.num_hidden_layers)
                .map(|n| Layer::load(&layers.pp(n), config))
                .collect::<std::result::Result<_, _>>()?,
            post_layer_norm: layer_norm(&weights.pp("post_layernorm"), width, eps)?,
        })
    }

    /// Maps pixels `[B, 3, S, S]` to features `[B, 1 + patches, hidden]`. All tokens, not only the class token, go
    /// through the final layer norm and are normalized to unit length, as the language model expects.
    ///
    /// # Errors
    /// candle's error if the device fails.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        l2_normalize(&self.post_layer_norm.forward(&self.hidden_states(pixels)?)?)
    }

    /// The output of the last layer `[B, 1 + patches, hidden]`.
    fn hidden_states(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.pre_layer_norm.forward(&self.embeddings.forward(pixels)?)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        Ok(x)
    }
}

struct Embeddings {
    /// The patch convolution as a matrix `[hidden, 3·patch·patch]`. Its stride equals its size, so patches do not
    /// overlap.
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
    attention: AttentionLinears,
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
            attention: AttentionLinears::load(&weights.pp("self_attn"), width)?,
            layer_norm2: layer_norm(&weights.pp("layer_norm2"), width, eps)?,
            fc1: linear(&weights.pp("mlp.fc1"), width, inner)?,
            fc2: linear(&weights.pp("mlp.fc2"), inner, width)?,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let AttentionLinears { q, k, v, out } = &self.attention;
        let normed = self.layer_norm1.forward(x)?;
        let heads = |map: &Linear| split_heads(&map.forward(&normed)?, self.heads);
        let x = (x + out.forward(&join_heads(&attend(&heads(q)?, &heads(k)?, &heads(v)?, None)?)?)?)?;
        let inner = quick_gelu(&self.fc1.forward(&self.layer_norm2.forward(&x)?)?)?;
        &x + self.fc2.forward(&inner)?
    }
}

/// x · sigmoid(1.702 x), the approximation of GELU that CLIP uses.
fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    x * candle_nn::ops::sigmoid(&(x * 1.702)?)?
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is the report")]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use candle_core::{DType, Device};
    use candle_nn::VarBuilder;
    use candle_transformers::models::clip::text_model::Activation;
    use candle_transformers::models::clip::vision_model::{ClipVisionConfig, ClipVisionTransformer};

    use super::*;
    use crate::checkpoint::{Checkpoint, random};
    use crate::config::Config;

    const SCOPE: &str = "vision_model.model";

    /// The checkpoint of the goldens.
    fn checkpoint() -> (Checkpoint, Config) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/model");
        let config = Config::from_dir(&dir).unwrap();
        let goldens = std::fs::read(dir.join("goldens.json")).unwrap();
        let goldens: serde_json::Value = serde_json::from_slice(&goldens).unwrap();
        let seed = goldens["weights_seed"].as_u64().unwrap();
        (Checkpoint::random(&config, seed, DType::F32, &Device::Cpu), config)
    }

    /// candle-transformers' vision tower with the same weights.
    fn oracle(checkpoint: &Checkpoint, config: &Config) -> ClipVisionTransformer {
        let tensors = random::tensors(config).into_iter().filter(|(name, _)| name.starts_with(SCOPE));
        let tensors: HashMap<String, Tensor> = tensors
            .map(|(name, shape)| {
                let tensor = checkpoint.root().get(shape, &name).unwrap();
                (name, tensor)
            })
            .collect();
        let vision = &config.vision_config;
        assert_eq!(vision.layer_norm_eps, 1e-5, "candle-transformers has no other epsilon");
        let clip_config = ClipVisionConfig {
            embed_dim: vision.hidden_size,
            activation: Activation::QuickGelu,
            intermediate_size: vision.intermediate_size,
            num_hidden_layers: vision.num_hidden_layers,
            num_attention_heads: vision.num_attention_heads,
            projection_dim: vision.hidden_size,
            num_channels: vision.num_channels,
            image_size: vision.image_size,
            patch_size: vision.patch_size,
        };
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        ClipVisionTransformer::new(weights.pp(SCOPE), &clip_config).unwrap()
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn hidden_states_are_those_of_candle_transformers() {
        let (checkpoint, config) = checkpoint();
        let (vision, side) = (&config.vision_config, config.vision_config.image_size);
        let tower = VisionTower::load(&checkpoint.root().pp(SCOPE), vision).unwrap();
        let oracle = oracle(&checkpoint, &config);
        let pixels: Vec<f32> = (0..2 * 3 * side * side).map(|i| ((i * 37) % 255) as f32 / 127.5 - 1.0).collect();
        let pixels = Tensor::from_vec(pixels, (2, 3, side, side), &Device::Cpu).unwrap();

        // The outputs of all layers, then the class token after the final layer norm.
        let states = oracle.output_hidden_states(&pixels).unwrap();
        let [.., expected, pooled] = &states[..] else { panic!("{} states", states.len()) };
        let found = tower.hidden_states(&pixels).unwrap();
        assert_eq!(found.dims(), [2, vision.patches() + 1, vision.hidden_size]);
        let difference = largest_difference(&found, expected);
        assert!(difference < 1e-4, "hidden states differ by {difference:e}");

        let class_features = tower.forward(&pixels).unwrap().narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
        let difference = largest_difference(&class_features, &l2_normalize(pooled).unwrap());
        assert!(difference < 1e-5, "features differ by {difference:e}");
    }
}
