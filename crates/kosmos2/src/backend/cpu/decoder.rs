//! The decoder: Magneto sub-layer norms (Wang et al., 2022, <https://arxiv.org/abs/2210.06423>), sinusoidal positions
//! and preallocated keys and values; names `text_model.model.*`, the output head tied to `embed_tokens`.

use candle_core::Tensor;
use std::ops::Range;

use kernels::cpu::{Attention, Context, Epilogue, KeyValueCache, PackedWeights, WeightFormat, attention, linear};

use super::crew::Crew;
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
    cache: Caches,
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

    fn bytes(&self) -> usize {
        [&self.qkv, &self.out, &self.fc1, &self.fc2].map(Map::bytes).iter().sum()
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
            cache: Caches::default(),
            buffers: Buffers::default(),
        })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.embed_tokens.outputs()
    }

    pub(super) fn reserve(&mut self, slots: usize, length: usize) {
        let layer = || KeyValueCache::new(slots, length, self.heads, self.width / self.heads);
        self.cache = Caches { layers: self.layers.iter().map(|_| layer()).collect(), slots, length };
    }

    /// Slots, and tokens of each.
    pub(super) fn room(&self) -> (usize, usize) {
        (self.cache.slots, self.cache.length)
    }

    pub(super) fn slot_bytes(&self, length: usize) -> u64 {
        (self.layers.len() * KeyValueCache::slot_bytes(length, self.heads, self.width / self.heads)) as u64
    }

    /// Segments as [`super::check_segments`] lets them through.
    pub(super) fn forward(&mut self, segments: &[Segment], crew: &mut Crew) -> Logits<'_> {
        let (width, heads) = (self.width, self.heads);
        let mut rows = segments.iter().map(|segment| segment.tokens.len()).sum::<usize>();
        let Buffers { x, normed, qkv, inner, logits } = &mut self.buffers;
        let (x, normed) = (x.take(rows * width), normed.take(rows * width));
        let qkv = qkv.take(rows * 3 * width);
        embed(segments, &self.embed_tokens, self.embedding_scale, &mut self.positions, x);
        for (index, (layer, cache)) in self.layers.iter().zip(&mut self.cache.layers).enumerate() {
            let each = Crew::rows_each(rows, layer.bytes());
            let parts = x.chunks(each * width).zip(normed.chunks_mut(each * width));
            crew.share(parts.zip(qkv.chunks_mut(each * 3 * width)), |((x, normed), qkv), scratch| {
                layer.attention_norm.apply(x, normed);
                layer.qkv.apply(normed, Epilogue::Store, qkv, scratch);
            });
            remember(cache, segments, width, qkv);
            let (cache, is_last) = (&*cache, index + 1 == self.layers.len());
            if is_last {
                // Behind the last keys and values only the rows that logits are wanted for matter.
                rows = keep_wanted(segments, width, x);
                keep_wanted(segments, 3 * width, qkv);
            }
            let wanted = |segment: &Segment| if is_last { segment.logits.clone() } else { 0..segment.tokens.len() };
            let (each, inner_width) = (Crew::rows_each(rows, layer.bytes()), layer.fc1.outputs());
            let inner = inner.take(rows * inner_width);
            let (x, normed) = (&mut x[..rows * width], &mut normed[..rows * width]);
            let parts = x.chunks_mut(each * width).zip(normed.chunks_mut(each * width));
            let parts = parts.zip(inner.chunks_mut(each * inner_width)).zip(qkv.chunks(each * 3 * width)).enumerate();
            crew.share(parts, |(part, (((x, normed), inner), qkv)), scratch| {
                let own = segments.iter().map(|segment| (segment, wanted(segment)));
                let mut jobs = queries_of(own, part * each, width, cache, qkv, normed);
                attention(&mut jobs, heads, width / heads, scratch);
                // Magneto's extra norms: on the joined heads before the output map, and inside the feed-forward block.
                layer.inner_attention_norm.apply_in_place(normed);
                layer.out.apply(normed, Epilogue::Add, x, scratch);
                layer.final_norm.apply(x, normed);
                layer.fc1.apply(normed, Epilogue::Gelu, inner, scratch);
                layer.ffn_norm.apply_in_place(inner);
                layer.fc2.apply(inner, Epilogue::Add, x, scratch);
            });
        }
        let x = &mut x[..rows * width];
        self.layer_norm.apply_in_place(x);
        let head = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        let logits = logits.take(rows * head.outputs());
        linear(x, head, None, Epilogue::Store, logits, crew.together());
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

/// Moves the rows that logits are wanted for to the front; gives their number.
fn keep_wanted(segments: &[Segment], width: usize, rows: &mut [f32]) -> usize {
    let (mut start, mut wanted) = (0, 0);
    for segment in segments {
        let Range { start: first, end } = segment.logits;
        rows.copy_within((start + first) * width..(start + end) * width, wanted * width);
        wanted += end - first;
        start += segment.tokens.len();
    }
    wanted
}

/// Keys and values of all slots.
#[derive(Default)]
struct Caches {
    layers: Vec<KeyValueCache>,
    slots: usize,
    length: usize,
}

/// Writes the keys and values of `qkv` [rows, 3·width] behind those that are there; then takes over what a segment is
/// to have from another slot, which may have been computed in this very step.
fn remember(cache: &mut KeyValueCache, segments: &[Segment], width: usize, qkv: &[f32]) {
    let mut rows = qkv.chunks_exact(3 * width);
    for segment in segments {
        for (place, row) in (segment.cached..segment.cached + segment.tokens.len()).zip(&mut rows) {
            cache.write(segment.slot, place, &row[width..2 * width], &row[2 * width..]);
        }
    }
    for segment in segments {
        if let Some(CopyFrom { slot, columns }) = &segment.copy {
            cache.copy(*slot, segment.slot, columns.clone());
        }
    }
}

/// Attention of a run of rows, from row `first` on, where each segment has rows for some of its tokens: their queries
/// stand in `qkv` [rows, 3·width].
fn queries_of<'a, 's>(
    segments: impl Iterator<Item = (&'s Segment<'s>, Range<usize>)>,
    first: usize,
    width: usize,
    cache: &'a KeyValueCache,
    mut qkv: &'a [f32],
    mut out: &'a mut [f32],
) -> Vec<Attention<'a>> {
    let run = first..first + out.len() / width;
    let mut start = 0;
    let mut jobs = Vec::new();
    for (segment, tokens) in segments {
        let own = start..start + tokens.len();
        start = own.end;
        let taken = Range { start: own.start.max(run.start), end: own.end.min(run.end) };
        if taken.is_empty() {
            continue;
        }
        let cached = segment.cached + tokens.start + taken.start - own.start;
        let (queries, next) = qkv.split_at(taken.len() * 3 * width);
        qkv = next;
        let (mixed, next) = std::mem::take(&mut out).split_at_mut(taken.len() * width);
        out = next;
        jobs.push(Attention {
            queries,
            query_stride: 3 * width,
            context: Context::Slot(cache.slot(segment.slot)),
            key_count: cached + taken.len(),
            causal_offset: Some(cached),
            out: mixed,
        });
    }
    jobs
}
