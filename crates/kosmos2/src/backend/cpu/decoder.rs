//! The decoder: Magneto sub-layer norms (Wang et al., 2022, <https://arxiv.org/abs/2210.06423>), sinusoidal positions
//! and preallocated keys and values; names `text_model.model.*`, the output head tied to `embed_tokens`.

use candle_core::Tensor;
use kernels::cpu::{Attention, Epilogue, PackedWeights, Scratch, WeightFormat, attention, linear};

use super::layers::{Buffer, Map, Norm, with_values};
use crate::backend::positions::Positions;
use crate::backend::{CopyFrom, Logits, Segment};
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::{Config, TextConfig};

pub(super) struct Decoder {
    embed_tokens: PackedWeights,
    /// Set where the head is not simply `embed_tokens`: the checkpoint does not tie it, or it is packed otherwise.
    lm_head: Option<PackedWeights>,
    layers: Vec<Layer>,
    layer_norm: Norm,
    embedding_scale: f32,
    positions: Positions,
    width: usize,
    heads: usize,
    cache: KvCache,
    buffers: Buffers,
}

#[derive(Default)]
struct Buffers {
    x: Buffer,
    normed: Buffer,
    qkv: Buffer,
    inner: Buffer,
    logits: Buffer,
}

struct Layer {
    attention_norm: Norm,
    qkv: Map,
    inner_attention_norm: Norm,
    out: Map,
    final_norm: Norm,
    fc1: Map,
    ffn_norm: Norm,
    fc2: Map,
}

impl Layer {
    fn load(weights: &Weights, config: &TextConfig, format: WeightFormat) -> Result<Self, CheckpointError> {
        let (width, inner, eps) = (config.embed_dim, config.ffn_dim, config.layer_norm_eps);
        let norm = |name, width| Norm::load(&weights.pp(name), width, eps);
        let attention = weights.pp("self_attn");
        Ok(Self {
            attention_norm: norm("self_attn_layer_norm", width)?,
            qkv: Map::side_by_side(&attention, &["q_proj", "k_proj", "v_proj"], width, width, format)?,
            inner_attention_norm: norm("self_attn.inner_attn_ln", width)?,
            out: Map::load(&attention.pp("out_proj"), width, width, format)?,
            final_norm: norm("final_layer_norm", width)?,
            fc1: Map::load(&weights.pp("ffn.fc1"), width, inner, format)?,
            ffn_norm: norm("ffn.ffn_layernorm", inner)?,
            fc2: Map::load(&weights.pp("ffn.fc2"), inner, width, format)?,
        })
    }
}

impl Decoder {
    pub(super) fn load(weights: &Weights, config: &Config, format: WeightFormat) -> Result<Self, CheckpointError> {
        let text = &config.text_config;
        let (width, vocabulary, model) = (text.embed_dim, text.vocab_size, weights.pp("model"));
        let embedding = model.get([vocabulary, width], "embed_tokens.weight")?;
        let pack =
            |tensor: &Tensor, format| with_values(tensor, |rows| PackedWeights::pack(rows, vocabulary, width, format));
        // A token's embedding goes through every layer: in 8 bits it would cost more fidelity than its memory is worth.
        let embedding_format = if format == WeightFormat::Int8 { WeightFormat::Bf16 } else { format };
        let lm_head = if config.tie_word_embeddings {
            (format != embedding_format).then(|| pack(&embedding, format))
        } else {
            Some(pack(&weights.get([vocabulary, width], "lm_head.weight")?, format))
        };
        let embed_tokens = pack(&embedding, embedding_format);
        drop(embedding);
        let layers = model.pp("layers");
        Ok(Self {
            embed_tokens,
            lm_head,
            layers: (0..text.layers).map(|n| Layer::load(&layers.pp(n), text, format)).collect::<Result<_, _>>()?,
            layer_norm: Norm::load(&model.pp("layer_norm"), width, text.layer_norm_eps)?,
            embedding_scale: if text.scale_embedding { (width as f32).sqrt() } else { 1.0 },
            positions: Positions::new(width, text.pad_token_id),
            width,
            heads: text.attention_heads,
            cache: KvCache::default(),
            buffers: Buffers::default(),
        })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.embed_tokens.outputs()
    }

    pub(super) fn reserve(&mut self, slots: usize, length: usize) {
        self.cache = KvCache::new(self.layers.len(), slots, length, self.width);
    }

    /// Slots, and tokens of each.
    pub(super) fn room(&self) -> (usize, usize) {
        (self.cache.slots, self.cache.length)
    }

    pub(super) fn slot_bytes(&self, length: usize) -> u64 {
        (self.layers.len() * 2 * length * self.width * size_of::<f32>()) as u64
    }

    /// Segments as [`super::check_segments`] lets them through.
    pub(super) fn forward(&mut self, segments: &[Segment], scratch: &mut Scratch) -> Logits<'_> {
        let (width, length) = (self.width, self.cache.length);
        let rows = segments.iter().map(|segment| segment.tokens.len()).sum::<usize>();
        let Buffers { x, normed, qkv, inner, logits } = &mut self.buffers;
        let (x, normed) = (x.take(rows * width), normed.take(rows * width));
        let qkv = qkv.take(rows * 3 * width);
        embed(segments, &self.embed_tokens, self.embedding_scale, &mut self.positions, x);
        for (layer, cache) in self.layers.iter().zip(&mut self.cache.layers) {
            layer.attention_norm.apply(x, normed);
            layer.qkv.apply(normed, Epilogue::Store, qkv, scratch);
            cache.append(segments, length, width, qkv);
            cache.copy(segments, length, width);
            let mut jobs = cache.attention(segments, length, width, qkv, normed);
            attention(&mut jobs, self.heads, width / self.heads, scratch);
            // Magneto's extra norms: on the joined heads before the output map, and inside the feed-forward block.
            layer.inner_attention_norm.apply_in_place(normed);
            layer.out.apply(normed, Epilogue::Add, x, scratch);
            layer.final_norm.apply(x, normed);
            let inner = inner.take(rows * layer.fc1.outputs());
            layer.fc1.apply(normed, Epilogue::Gelu, inner, scratch);
            layer.ffn_norm.apply_in_place(inner);
            layer.fc2.apply(inner, Epilogue::Add, x, scratch);
        }
        let wanted = gather_wanted(segments, width, x, normed);
        self.layer_norm.apply_in_place(&mut normed[..wanted * width]);
        let head = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        let logits = logits.take(wanted * head.outputs());
        linear(&normed[..wanted * width], head, None, Epilogue::Store, logits, scratch);
        Logits::new(logits, head.outputs())
    }
}

/// What the first layer takes: token or image embeddings, scaled, plus their positions' rows.
fn embed(segments: &[Segment], table: &PackedWeights, scale: f32, positions: &mut Positions, x: &mut [f32]) {
    let mut rows = x.chunks_exact_mut(table.inputs());
    for segment in segments {
        let mut pictures = segment.image.map(|image| image.rows(segment.cached, segment.tokens.len()));
        let places = positions.of(segment.tokens, segment.seen);
        for ((&token, position), row) in segment.tokens.iter().zip(places).zip(&mut rows) {
            let picture = pictures.as_mut().and_then(|rows| rows.next().flatten());
            match picture.zip(segment.image) {
                Some((index, image)) => row.copy_from_slice(image.embedding.row(index)),
                None => table.read_row(token as usize, row),
            }
            row.iter_mut().zip(positions.row(position)).for_each(|(value, p)| *value = *value * scale + p);
        }
    }
}

/// Puts the rows that logits are wanted for to the front of `out`; gives their number.
fn gather_wanted(segments: &[Segment], width: usize, x: &[f32], out: &mut [f32]) -> usize {
    let (mut start, mut wanted) = (0, 0);
    for segment in segments {
        for row in segment.logits.clone() {
            out[wanted * width..][..width].copy_from_slice(&x[(start + row) * width..][..width]);
            wanted += 1;
        }
        start += segment.tokens.len();
    }
    wanted
}

/// Keys and values of all slots.
#[derive(Default)]
struct KvCache {
    layers: Vec<LayerCache>,
    slots: usize,
    length: usize,
}

impl KvCache {
    /// Zeroed pages are only taken from the system when first written, so unused slots cost address space alone.
    fn new(layers: usize, slots: usize, length: usize, width: usize) -> Self {
        let values = slots * length * width;
        let layers = (0..layers).map(|_| LayerCache { keys: vec![0.0; values], values: vec![0.0; values] }).collect();
        Self { layers, slots, length }
    }
}

/// Keys and values of one layer: [slots, length, width] each.
struct LayerCache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl LayerCache {
    /// After [`Self::append`], since what is taken over may have been computed in this very step.
    fn copy(&mut self, segments: &[Segment], length: usize, width: usize) {
        for segment in segments {
            let Some(CopyFrom { slot, columns }) = &segment.copy else { continue };
            let from = (slot * length + columns.start) * width..(slot * length + columns.end) * width;
            let to = (segment.slot * length + columns.start) * width;
            self.keys.copy_within(from.clone(), to);
            self.values.copy_within(from, to);
        }
    }

    /// Writes the keys and values of `qkv` [rows, 3·width] behind those that are there.
    fn append(&mut self, segments: &[Segment], length: usize, width: usize, qkv: &[f32]) {
        let mut rows = qkv.chunks_exact(3 * width);
        for segment in segments {
            let first = segment.slot * length + segment.cached;
            for (place, row) in (first..first + segment.tokens.len()).zip(&mut rows) {
                self.keys[place * width..][..width].copy_from_slice(&row[width..2 * width]);
                self.values[place * width..][..width].copy_from_slice(&row[2 * width..]);
            }
        }
    }

    fn attention<'a>(
        &'a self,
        segments: &[Segment],
        length: usize,
        width: usize,
        mut qkv: &'a [f32],
        mut out: &'a mut [f32],
    ) -> Vec<Attention<'a>> {
        let mut job = |segment: &Segment| {
            let (count, first) = (segment.tokens.len(), segment.slot * length * width);
            let (queries, next) = qkv.split_at(count * 3 * width);
            qkv = next;
            let (mixed, next) = std::mem::take(&mut out).split_at_mut(count * width);
            out = next;
            Attention {
                queries,
                query_stride: 3 * width,
                keys: &self.keys[first..],
                values: &self.values[first..],
                key_stride: width,
                key_count: segment.cached + count,
                causal_offset: Some(segment.cached),
                out: mixed,
            }
        };
        segments.iter().map(&mut job).collect()
    }
}
