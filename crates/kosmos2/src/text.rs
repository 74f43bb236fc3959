//! The decoder: Magneto sub-layer norms (Wang et al., 2022, <https://arxiv.org/abs/2210.06423>), sinusoidal positions
//! and a key-value cache; names `text_model.model.*`, the output head tied to `embed_tokens`.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module};

use crate::checkpoint::{CheckpointError, Weights};
use crate::config::{Config, TextConfig};
use crate::layers::{AttentionMaps, attend, layer_norm, linear, split_heads};

/// The language model.
pub struct Decoder {
    embed_tokens: Tensor,
    /// Set where the checkpoint's head is not tied.
    lm_head: Option<Tensor>,
    layers: Vec<Layer>,
    layer_norm: LayerNorm,
    embedding_scale: f64,
    frequencies: Vec<f32>,
    pad: u32,
}

impl Decoder {
    pub(crate) fn load(weights: &Weights, config: &Config) -> std::result::Result<Self, CheckpointError> {
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
            frequencies: frequencies(width / 2),
            pad: text.pad_token_id,
        })
    }

    /// Token embeddings [T, D], not yet scaled.
    ///
    /// # Errors
    /// candle's, when an id is beyond the vocabulary or the device fails.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        self.embed_tokens.index_select(&Tensor::new(ids, self.embed_tokens.device())?, 0)
    }

    /// Positions of consecutive tokens, after `before` tokens of the row that were not `<pad>`.
    ///
    /// A token's position is the number of non-pad tokens up to and including it, plus one; `<pad>` has the pad row,
    /// 1, which is zero. It goes by ids, not by the attention mask, and padding on the left shifts nothing, so a row
    /// in a batch equals the row alone.
    pub fn positions(&self, ids: &[u32], before: usize) -> Vec<usize> {
        let mut count = before;
        let position = |&id: &u32| {
            if id == self.pad {
                return PAD_POSITION;
            }
            count += 1;
            count + 1
        };
        ids.iter().map(position).collect()
    }

    /// What the first layer takes: embeddings [T, D], image embeddings already in place, scaled, plus the position table's rows.
    ///
    /// # Errors
    /// candle's, when the device fails.
    pub fn with_positions(&self, embeddings: &Tensor, positions: &[usize]) -> Result<Tensor> {
        let table: Vec<f32> = positions.iter().flat_map(|&p| self.sinusoid(p)).collect();
        let table = Tensor::from_vec(table, (positions.len(), 2 * self.frequencies.len()), embeddings.device())?;
        (embeddings * self.embedding_scale)? + table.to_dtype(embeddings.dtype())?
    }

    /// One row of the table: sines, then cosines, computed in f32 as the reference does.
    fn sinusoid(&self, position: usize) -> impl Iterator<Item = f32> + '_ {
        let (p, alive) = (position as f32, if position == PAD_POSITION { 0.0 } else { 1.0 });
        let angles = move || self.frequencies.iter().map(move |f| p * f);
        angles().map(move |a| a.sin() * alive).chain(angles().map(move |a| a.cos() * alive))
    }

    /// An empty cache for `batch` rows.
    pub fn new_cache(&self) -> KvCache {
        KvCache { layers: vec![None; self.layers.len()], len: 0 }
    }

    /// Runs new columns [B, T, D] after those in the cache; gives hidden states [B, T, D] after the final layer norm.
    ///
    /// `mask` is added to the attention scores [B, heads, T, cached + T]; `None` hides nothing.
    ///
    /// # Errors
    /// candle's, when shapes or the device fail.
    pub fn forward(&self, input: &Tensor, mask: Option<&Tensor>, cache: &mut KvCache) -> Result<Tensor> {
        let mut x = input.clone();
        for (layer, slot) in self.layers.iter().zip(&mut cache.layers) {
            x = layer.forward(&x, mask, slot, cache.len)?;
        }
        cache.len += input.dim(1)?;
        self.layer_norm.forward(&x)
    }

    /// Hidden states [..., D] to logits [..., vocabulary].
    ///
    /// # Errors
    /// candle's, when shapes or the device fail.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Linear::new(self.lm_head.clone().unwrap_or_else(|| self.embed_tokens.clone()), None).forward(hidden)
    }
}

/// The row of `<pad>` in the position table: all zero.
const PAD_POSITION: usize = 1;

/// exp(-k ln(10000) / (n - 1)) for k in 0..n.
fn frequencies(n: usize) -> Vec<f32> {
    let step = (10_000f64.ln() / (n as f64 - 1.0)) as f32;
    (0..n).map(|k| (-step * k as f32).exp()).collect()
}

/// A mask [B, 1, T, T] for left-padded prompts: each column sees itself and those before it, and none sees the
/// row's first `pads[b]` columns.
///
/// Hidden places get a large finite number, since a pad's own row has nothing to see and must not become NaN.
pub(crate) fn prompt_mask(pads: &[usize], len: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let hidden = hidden_score(dtype);
    let cell = |pad: usize, i: usize, j: usize| if j > i || j < pad { hidden } else { 0.0 };
    let values: Vec<f32> =
        pads.iter().flat_map(|&pad| (0..len).flat_map(move |i| (0..len).map(move |j| cell(pad, i, j)))).collect();
    Tensor::from_vec(values, (pads.len(), 1, len, len), device)?.to_dtype(dtype)
}

/// A mask [B, 1, 1, S] that hides each row's left padding from a new token; `None` where no row has any.
pub(crate) fn step_mask(pads: &[usize], len: usize, dtype: DType, device: &Device) -> Result<Option<Tensor>> {
    if pads.iter().all(|&pad| pad == 0) {
        return Ok(None);
    }
    let hidden = hidden_score(dtype);
    let values: Vec<f32> =
        pads.iter().flat_map(|&pad| (0..len).map(move |j| if j < pad { hidden } else { 0.0 })).collect();
    Ok(Some(Tensor::from_vec(values, (pads.len(), 1, 1, len), device)?.to_dtype(dtype)?))
}

fn hidden_score(dtype: DType) -> f32 {
    // Added to a real score it must stay finite; f16 ends at 65504.
    if dtype == DType::F16 { -3e4 } else { -1e30 }
}

/// Keys and values of all columns so far.
pub struct KvCache {
    layers: Vec<Option<LayerCache>>,
    len: usize,
}

impl KvCache {
    /// Columns held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps only these rows of the batch, in this order.
    ///
    /// # Errors
    /// candle's, when the device fails.
    pub fn keep_rows(&mut self, rows: &[u32]) -> Result<()> {
        for layer in self.layers.iter_mut().flatten() {
            let index = Tensor::new(rows, layer.keys.device())?;
            layer.keys = layer.keys.index_select(&index, 0)?;
            layer.values = layer.values.index_select(&index, 0)?;
        }
        Ok(())
    }
}

/// Keys and values [B, H, capacity, d]; columns beyond the cache's length are unused room.
#[derive(Clone)]
struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

impl LayerCache {
    /// Room is added in steps, so that a step of decoding writes one column instead of copying all.
    const STEP: usize = 128;

    /// Writes new columns [B, H, T, d] behind the first `len` and gives all of them: keys and values [B, H, len + T, d].
    fn append(slot: &mut Option<Self>, len: usize, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        let (batch, heads, new, head_dim) = keys.dims4()?;
        let total = len + new;
        let room = slot.as_ref().map_or(Ok(0), |cache| cache.keys.dim(2))?;
        if total > room {
            let added = (total - room).next_multiple_of(Self::STEP);
            let blank = Tensor::zeros((batch, heads, added, head_dim), keys.dtype(), keys.device())?;
            *slot = Some(match slot.take() {
                Some(old) => Self {
                    keys: Tensor::cat(&[&old.keys, &blank], 2)?,
                    values: Tensor::cat(&[&old.values, &blank], 2)?,
                },
                // Two tensors that are written in place must not share their storage.
                None => Self { keys: blank.copy()?, values: blank },
            });
        }
        let Some(cache) = slot else {
            return Err(candle_core::Error::Msg("appended no columns to an empty cache".into()));
        };
        cache.keys.slice_set(keys, 2, len)?;
        cache.values.slice_set(values, 2, len)?;
        Ok((cache.keys.narrow(2, 0, total)?, cache.values.narrow(2, 0, total)?))
    }
}

struct Layer {
    attention_norm: LayerNorm,
    attention: AttentionMaps,
    inner_attention_norm: LayerNorm,
    final_norm: LayerNorm,
    fc1: Linear,
    ffn_norm: LayerNorm,
    fc2: Linear,
    heads: usize,
}

impl Layer {
    fn load(weights: &Weights, config: &TextConfig) -> std::result::Result<Self, CheckpointError> {
        let (width, inner, eps) = (config.embed_dim, config.ffn_dim, config.layer_norm_eps);
        let norm = |name, width| layer_norm(&weights.pp(name), width, eps);
        Ok(Self {
            attention_norm: norm("self_attn_layer_norm", width)?,
            attention: AttentionMaps::load(&weights.pp("self_attn"), width)?,
            inner_attention_norm: norm("self_attn.inner_attn_ln", width)?,
            final_norm: norm("final_layer_norm", width)?,
            fc1: linear(&weights.pp("ffn.fc1"), width, inner)?,
            ffn_norm: norm("ffn.ffn_layernorm", inner)?,
            fc2: linear(&weights.pp("ffn.fc2"), inner, width)?,
            heads: config.attention_heads,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        mask: Option<&Tensor>,
        slot: &mut Option<LayerCache>,
        cached: usize,
    ) -> Result<Tensor> {
        let AttentionMaps { q, k, v, out } = &self.attention;
        let normed = self.attention_norm.forward(x)?;
        let heads = |map: &Linear| split_heads(&map.forward(&normed)?, self.heads);
        let (keys, values) = LayerCache::append(slot, cached, &heads(k)?, &heads(v)?)?;
        let mixed = attend(&heads(q)?, &keys, &values, mask)?;
        // Magneto's extra norms: on the joined heads before the output map, and inside the feed-forward block.
        let x = (x + out.forward(&self.inner_attention_norm.forward(&mixed)?)?)?;
        let inner = self.fc1.forward(&self.final_norm.forward(&x)?)?.gelu_erf()?;
        &x + self.fc2.forward(&self.ffn_norm.forward(&inner)?)?
    }
}

/// The last column of hidden states [B, T, D]: [B, D].
pub(crate) fn last_column(hidden: &Tensor) -> Result<Tensor> {
    hidden.narrow(1, hidden.dim(1)? - 1, 1)?.squeeze(D::Minus2)?.contiguous()
}
