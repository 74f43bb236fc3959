//! The decoder: Magneto sub-layer norms (Wang et al., 2022, <https://arxiv.org/abs/2210.06423>), sinusoidal positions
//! and preallocated keys and values. Weights: `text_model.model.*`, the output head tied to `embed_tokens`.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module};

use super::layers::{AttentionLinears, attend, join_heads, layer_norm, linear, split_heads};
use crate::backend::positions::Positions;
use crate::backend::segment::{CopyFrom, Segment};
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::{Config, TextConfig};

/// The language model.
pub(super) struct Decoder {
    embed_tokens: Tensor,
    /// `None` if the head is tied to `embed_tokens`.
    lm_head: Option<Tensor>,
    layers: Vec<Layer>,
    layer_norm: LayerNorm,
    embedding_scale: f64,
    positions: Positions,
    heads: usize,
    cache: KvCache,
}

impl Decoder {
    pub(super) fn load(weights: &Weights, config: &Config) -> std::result::Result<Self, CheckpointError> {
        let text = &config.text_config;
        let (width, model) = (text.embed_dim, weights.pp("model"));
        let layers = model.pp("layers");
        Ok(Self {
            embed_tokens: model.get([text.vocab_size, width], "embed_tokens.weight")?,
            lm_head: match config.tie_word_embeddings {
                true => None,
                false => Some(weights.get([text.vocab_size, width], "lm_head.weight")?),
            },
            layers: (0..text.layers)
                .map(|n| Layer::load(&layers.pp(n), text))
                .collect::<std::result::Result<_, _>>()?,
            layer_norm: layer_norm(&model.pp("layer_norm"), width, text.layer_norm_eps)?,
            embedding_scale: if text.scale_embedding { (width as f64).sqrt() } else { 1.0 },
            positions: Positions::new(width, text.pad_token_id),
            heads: text.attention_heads,
            cache: KvCache::default(),
        })
    }

    pub(super) fn vocabulary(&self) -> Result<usize> {
        self.embed_tokens.dim(0)
    }

    pub(super) fn reserve(&mut self, slots: usize, length: usize) -> Result<()> {
        // Freed first, since the device may not have memory for the old and the new slots.
        self.cache = KvCache::default();
        let shape = (slots * length, self.embed_tokens.dim(1)?);
        let blank = || Tensor::zeros(shape, self.embed_tokens.dtype(), self.embed_tokens.device());
        let layers = (0..self.layers.len()).map(|_| Ok(LayerCache { keys: blank()?, values: blank()? }));
        self.cache = KvCache { layers: layers.collect::<Result<_>>()?, slots, length };
        Ok(())
    }

    /// Number of slots, and tokens of each.
    pub(super) fn kv_capacity(&self) -> (usize, usize) {
        (self.cache.slots, self.cache.length)
    }

    pub(super) fn slot_bytes(&self, length: usize) -> u64 {
        let width = 2 * self.positions.width() * self.embed_tokens.dtype().size_in_bytes();
        (self.layers.len() * length * width) as u64
    }

    /// Computes the logits `[rows, vocabulary]` of checked segments.
    pub(super) fn forward(&mut self, segments: &[Segment]) -> Result<Tensor> {
        let mut x = self.embed(segments)?; // [tokens, D]
        for (layer, cache) in self.layers.iter().zip(&self.cache.layers) {
            x = layer.forward(&x, segments, cache, self.cache.length, self.heads)?;
        }
        let mut rows = Vec::new();
        let mut start = 0;
        for segment in segments {
            rows.extend(segment.logits.clone().map(|row| (start + row) as u32));
            start += segment.tokens.len();
        }
        let hidden = x.index_select(&Tensor::new(rows, x.device())?, 0)?;
        let head = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        Linear::new(head.clone(), None).forward(&self.layer_norm.forward(&hidden)?)
    }

    /// Computes the input of the first layer: scaled token or image embeddings plus position embeddings.
    fn embed(&mut self, segments: &[Segment]) -> Result<Tensor> {
        let (device, dtype) = (self.embed_tokens.device().clone(), self.embed_tokens.dtype());
        let mut parts = Vec::new();
        let mut table = Vec::new();
        for segment in segments {
            let tokens = self.embed_tokens.index_select(&Tensor::new(segment.tokens, &device)?, 0)?;
            parts.push(insert_image(segment, tokens)?);
            for position in self.positions.of(segment.tokens, segment.preceding_non_pad) {
                table.extend_from_slice(self.positions.row(position));
            }
        }
        let embedded = Tensor::cat(&parts, 0)?;
        let table = Tensor::from_vec(table, embedded.shape(), &device)?.to_dtype(dtype)?;
        (embedded * self.embedding_scale)? + table
    }
}

/// Replaces the token embeddings `[T, D]` of image tokens by rows of the image embedding.
fn insert_image(segment: &Segment, tokens: Tensor) -> Result<Tensor> {
    let Some(image) = segment.image else {
        return Ok(tokens);
    };
    let rows: Vec<Option<usize>> = image.rows(segment.cached, segment.tokens.len()).collect();
    let (mut runs, mut start) = (Vec::new(), 0);
    for run in rows.chunk_by(|a, b| a.is_some() == b.is_some()) {
        runs.push(match run[0] {
            None => tokens.narrow(0, start, run.len())?,
            Some(first) => {
                let values: Vec<f32> =
                    (first..first + run.len()).flat_map(|r| image.embedding.row(r)).copied().collect();
                Tensor::from_vec(values, (run.len(), tokens.dim(1)?), tokens.device())?.to_dtype(tokens.dtype())?
            }
        });
        start += run.len();
    }
    Tensor::cat(&runs, 0)
}

/// A mask `[T, cached + T]`: each new token attends to the tokens before it and to itself.
fn causal_mask(tokens: usize, cached: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    // The sum with a score must be finite; the largest f16 is 65504.
    let hidden = if dtype == DType::F16 { -3e4 } else { -1e30 };
    let cell = |i: usize, j: usize| if j > cached + i { hidden } else { 0f32 };
    let total = cached + tokens;
    let values: Vec<f32> = (0..tokens).flat_map(|i| (0..total).map(move |j| cell(i, j))).collect();
    Tensor::from_vec(values, (tokens, total), device)?.to_dtype(dtype)
}

/// Keys and values of all slots.
#[derive(Default)]
struct KvCache {
    layers: Vec<LayerCache>,
    slots: usize,
    length: usize,
}

/// Keys and values of one layer, `[slots · length, D]` each, written in place.
struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

impl LayerCache {
    /// Appends the segments' new rows, then does the copies between sequences.
    fn write(&self, segments: &[Segment], length: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        for (cache, new) in [(&self.keys, keys), (&self.values, values)] {
            let mut start = 0;
            for segment in segments {
                let count = segment.tokens.len();
                cache.slice_set(
                    &new.narrow(0, start, count)?.contiguous()?,
                    0,
                    segment.slot * length + segment.cached,
                )?;
                start += count;
            }
            for segment in segments {
                let Some(CopyFrom { slot, columns }) = &segment.copy else { continue };
                // A tensor cannot be written from itself.
                let copied = cache.narrow(0, slot * length + columns.start, columns.len())?.copy()?;
                cache.slice_set(&copied, 0, segment.slot * length + columns.start)?;
            }
        }
        Ok(())
    }
}

struct Layer {
    attention_norm: LayerNorm,
    attention: AttentionLinears,
    inner_attention_norm: LayerNorm,
    final_norm: LayerNorm,
    fc1: Linear,
    ffn_norm: LayerNorm,
    fc2: Linear,
}

impl Layer {
    fn load(weights: &Weights, config: &TextConfig) -> std::result::Result<Self, CheckpointError> {
        let (width, inner, eps) = (config.embed_dim, config.ffn_dim, config.layer_norm_eps);
        let norm = |name, width| layer_norm(&weights.pp(name), width, eps);
        Ok(Self {
            attention_norm: norm("self_attn_layer_norm", width)?,
            attention: AttentionLinears::load(&weights.pp("self_attn"), width)?,
            inner_attention_norm: norm("self_attn.inner_attn_ln", width)?,
            final_norm: norm("final_layer_norm", width)?,
            fc1: linear(&weights.pp("ffn.fc1"), width, inner)?,
            ffn_norm: norm("ffn.ffn_layernorm", inner)?,
            fc2: linear(&weights.pp("ffn.fc2"), inner, width)?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        segments: &[Segment],
        cache: &LayerCache,
        length: usize,
        heads: usize,
    ) -> Result<Tensor> {
        let AttentionLinears { q, k, v, out } = &self.attention;
        let normed = self.attention_norm.forward(x)?;
        let queries = q.forward(&normed)?;
        cache.write(segments, length, &k.forward(&normed)?, &v.forward(&normed)?)?;
        let (mut attended, mut start) = (Vec::with_capacity(segments.len()), 0);
        for segment in segments {
            let (count, total) = (segment.tokens.len(), segment.cached + segment.tokens.len());
            let heads = |rows: &Tensor, first: usize, len: usize| {
                split_heads(&rows.narrow(0, first, len)?.unsqueeze(0)?, heads)
            };
            let mask = match count {
                1 => None,
                _ => Some(causal_mask(count, segment.cached, x.dtype(), x.device())?),
            };
            let (q, first) = (heads(&queries, start, count)?, segment.slot * length);
            let (k, v) = (heads(&cache.keys, first, total)?, heads(&cache.values, first, total)?);
            attended.push(join_heads(&attend(&q, &k, &v, mask.as_ref())?)?.squeeze(0)?);
            start += count;
        }
        let attended = Tensor::cat(&attended, 0)?;
        // Magneto's extra norms: after the attention heads and inside the feed-forward block.
        let x = (x + out.forward(&self.inner_attention_norm.forward(&attended)?)?)?;
        let inner = self.fc1.forward(&self.final_norm.forward(&x)?)?.gelu_erf()?;
        &x + self.fc2.forward(&self.ffn_norm.forward(&inner)?)?
    }
}
