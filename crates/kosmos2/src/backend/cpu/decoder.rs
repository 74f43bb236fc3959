//! The decoder: Magneto sub-layer norms (Wang et al., 2022, <https://arxiv.org/abs/2210.06423>), sinusoidal positions
//! and preallocated keys and values. Weights: `text_model.model.*`, the output head tied to `embed_tokens`.

use candle_core::Tensor;
use kernels::cpu::{CacheFormat, Epilogue, KeyValueCache, PackedWeights, WeightFormat, attention, linear};

use super::layers::{Buffer, Linear, Norm, with_values};
use super::rows::{
    Rows, Slots, append_keys_values, attention_of_part, count_logits, count_rows, embed, keep_logits_rows, take_slots,
};
use super::threads::{self, ParallelPasses, PassThreads};
use crate::backend::logits::{ChosenToken, Logits, LogitsOutput, LogitsRequest, choose_best};
use crate::backend::positions::Positions;
use crate::backend::segment::Segment;
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::{Config, TextConfig};

/// Maximum number of rows by which a thread's part may exceed the average, if threads take whole segments. A larger
/// excess takes longer than synchronizing the threads in every layer.
const MAX_EXCESS_ROWS: usize = 32;

pub(super) struct Decoder {
    network: Network,
    positions: Positions,
    /// Keys and values: `[layer][slot]`.
    caches: Vec<Vec<KeyValueCache>>,
    cache_format: CacheFormat,
    /// Tokens of a slot.
    length: usize,
    buffers: Buffers,
    parallel: ParallelPasses<()>,
}

/// The weights.
struct Network {
    embed_tokens: PackedWeights,
    /// `None` if the head is `embed_tokens`: tied in the checkpoint and packed in the same format.
    lm_head: Option<PackedWeights>,
    layers: Vec<Layer>,
    layer_norm: Norm,
    embedding_scale: f32,
    width: usize,
    heads: usize,
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
    qkv: Linear,
    inner_attention_norm: Norm,
    out: Linear,
    final_norm: Norm,
    fc1: Linear,
    ffn_norm: Norm,
    fc2: Linear,
}

impl Layer {
    fn load(weights: &Weights, config: &TextConfig, format: WeightFormat) -> Result<Self, CheckpointError> {
        let (width, inner, eps) = (config.embed_dim, config.ffn_dim, config.layer_norm_eps);
        let norm = |name, width| Norm::load(&weights.pp(name), width, eps);
        let attention = weights.pp("self_attn");
        Ok(Self {
            attention_norm: norm("self_attn_layer_norm", width)?,
            qkv: Linear::concatenated(&attention, &["q_proj", "k_proj", "v_proj"], width, width, format)?,
            inner_attention_norm: norm("self_attn.inner_attn_ln", width)?,
            out: Linear::load(&attention.pp("out_proj"), width, width, format)?,
            final_norm: norm("final_layer_norm", width)?,
            fc1: Linear::load(&weights.pp("ffn.fc1"), width, inner, format)?,
            ffn_norm: norm("ffn.ffn_layernorm", inner)?,
            fc2: Linear::load(&weights.pp("ffn.fc2"), inner, width, format)?,
        })
    }

    fn bytes(&self) -> usize {
        [&self.qkv, &self.out, &self.fc1, &self.fc2].map(Linear::bytes).iter().sum()
    }
}

impl Decoder {
    pub(super) fn load(weights: &Weights, config: &Config, format: WeightFormat) -> Result<Self, CheckpointError> {
        let text = &config.text_config;
        let (width, vocabulary, model) = (text.embed_dim, text.vocab_size, weights.pp("model"));
        let embedding = model.get([vocabulary, width], "embed_tokens.weight")?;
        let pack =
            |tensor: &Tensor, format| with_values(tensor, |rows| PackedWeights::pack(rows, vocabulary, width, format));
        // The embedding feeds every layer: 8 bits would cost more accuracy than the memory is worth.
        let embedding_format = if format.is_integer() { WeightFormat::Bf16 } else { format };
        let lm_head = if config.tie_word_embeddings {
            (format != embedding_format).then(|| pack(&embedding, format))
        } else {
            Some(pack(&weights.get([vocabulary, width], "lm_head.weight")?, format))
        };
        let embed_tokens = pack(&embedding, embedding_format);
        drop(embedding);
        let layers = model.pp("layers");
        let network = Network {
            embed_tokens,
            lm_head,
            layers: (0..text.layers).map(|n| Layer::load(&layers.pp(n), text, format)).collect::<Result<_, _>>()?,
            layer_norm: Norm::load(&model.pp("layer_norm"), width, text.layer_norm_eps)?,
            embedding_scale: if text.scale_embedding { (width as f32).sqrt() } else { 1.0 },
            width,
            heads: text.attention_heads,
        };
        Ok(Self {
            network,
            positions: Positions::new(width, text.pad_token_id),
            caches: Vec::new(),
            cache_format: format.cache_format(),
            length: 0,
            buffers: Buffers::default(),
            parallel: ParallelPasses::default(),
        })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.network.embed_tokens.outputs()
    }

    pub(super) fn reserve(&mut self, slots: usize, length: usize) {
        let Network { layers, heads, width, .. } = &self.network;
        let slot = |_| KeyValueCache::new(length, *heads, width / heads, self.cache_format);
        self.caches = layers.iter().map(|_| (0..slots).map(slot).collect()).collect();
        self.length = length;
    }

    /// Slots, and tokens of each.
    pub(super) fn kv_capacity(&self) -> (usize, usize) {
        (self.caches.first().map_or(0, Vec::len), self.length)
    }

    pub(super) fn slot_bytes(&self, length: usize) -> u64 {
        let Network { layers, heads, width, .. } = &self.network;
        (layers.len() * KeyValueCache::bytes(length, *heads, width / heads, self.cache_format)) as u64
    }

    /// Computes the logits of checked segments.
    pub(super) fn forward(&mut self, segments: &[Segment], threads: &mut PassThreads) -> Logits<'_> {
        self.run(segments, &[], threads);
        let outputs = self.vocabulary();
        Logits::new(self.buffers.logits.take(count_logits(segments) * outputs), outputs)
    }

    /// Like [`Self::forward`], but with the requested tokens where they were chosen while the logits were in the
    /// caches.
    pub(super) fn decode(
        &mut self,
        segments: &[Segment],
        requests: &[LogitsRequest],
        threads: &mut PassThreads,
    ) -> Vec<LogitsOutput<'_>> {
        let chosen = self.run(segments, requests, threads);
        let outputs = self.vocabulary();
        let logits = self.buffers.logits.take(count_logits(segments) * outputs);
        let chosen = chosen.into_iter().chain(std::iter::repeat(None));
        logits
            .chunks_exact(outputs)
            .zip(chosen)
            .map(|(row, chosen)| chosen.map_or(LogitsOutput::Logits(row), LogitsOutput::Chosen))
            .collect()
    }

    /// Fills the buffer of logits. Returns the chosen tokens of the first rows; the other rows have none.
    fn run(
        &mut self,
        segments: &[Segment],
        requests: &[LogitsRequest],
        threads: &mut PassThreads,
    ) -> Vec<Option<ChosenToken>> {
        let Self { network, positions, caches, buffers, parallel, .. } = self;
        let Buffers { x, normed, qkv, inner, logits } = buffers;
        let (width, inner_width, outputs) = (network.width, network.inner_width(), network.head().outputs());
        let (rows, logits_rows) = (count_rows(segments), count_logits(segments));
        let mut rest = Rows {
            x: x.take(rows * width),
            normed: normed.take(rows * width),
            qkv: qkv.take(rows * 3 * width),
            inner: inner.take(rows * inner_width),
            logits: logits.take(logits_rows * outputs),
        };
        // A token's position is at most the number of its sequence's tokens plus one.
        positions.grow_to(
            segments.iter().map(|segment| segment.preceding_non_pad + segment.tokens.len() + 1).max().unwrap_or(0),
        );
        let positions = &*positions;
        let runs = network.runs(segments);
        let mut slots: Vec<Slots> = caches.iter_mut().map(|layer| layer.iter_mut().map(Some).collect()).collect();
        if let [_] = runs[..] {
            network.forward(segments, positions, &mut slots, rest, threads);
            return Vec::new();
        }
        // Each thread takes its segments through all layers without waiting for other threads.
        let mut parts = Vec::with_capacity(runs.len());
        let mut requests = requests.iter();
        for own in runs {
            let own_slots: Vec<Slots> = slots.iter_mut().map(|layer| take_slots(layer, own)).collect();
            let (rows, others) = rest.split_at(count_rows(own), count_logits(own), (width, inner_width, outputs));
            rest = others;
            parts.push((own, own_slots, rows, requests.by_ref().take(count_logits(own)).collect::<Vec<_>>()));
        }
        let chosen = parallel.run(parts, |(own, mut slots, rows, requests), threads, ()| {
            let logits = network.forward(own, positions, &mut slots, rows, threads);
            let rows = requests.into_iter().zip(logits.chunks_exact(outputs));
            rows.map(|(request, row)| choose_best(request, row)).collect::<Vec<_>>()
        });
        chosen.concat()
    }
}

impl Network {
    fn head(&self) -> &PackedWeights {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    fn inner_width(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.fc1.outputs())
    }

    /// Divides the segments among threads that take them through all layers independently. Returns a single run of all
    /// segments if layers are large, sequences copy from each other, or the runs would be too uneven.
    fn runs<'r, 's>(&self, segments: &'r [Segment<'s>]) -> Vec<&'r [Segment<'s>]> {
        let parts = rayon::current_num_threads().min(segments.len());
        let is_independent = |segment: &Segment| segment.copy.is_none();
        let is_small = self.layers.first().is_some_and(|layer| threads::is_small(layer.bytes()));
        let undivided = || vec![segments];
        if parts < 2 || !is_small || !segments.iter().all(is_independent) {
            return undivided();
        }
        let rows = count_rows(segments);
        let (mut runs, mut start, mut taken) = (Vec::with_capacity(parts), 0, 0);
        for part in 1..=parts {
            let (first, before) = (start, taken);
            // Up to the segment whose middle is beyond the part's end.
            while let Some(segment) = segments.get(start)
                && (part == parts || 2 * taken + segment.tokens.len() <= 2 * rows * part / parts)
            {
                taken += segment.tokens.len();
                start += 1;
            }
            if taken - before > rows.div_ceil(parts) + MAX_EXCESS_ROWS {
                return undivided();
            }
            if start > first {
                runs.push(&segments[first..start]);
            }
        }
        runs
    }

    /// Runs segments through all layers and the head, and returns their logits. `caches` has the slots of each layer.
    fn forward<'r>(
        &self,
        segments: &[Segment],
        positions: &Positions,
        caches: &mut [Slots],
        rows: Rows<'r>,
        threads: &mut PassThreads,
    ) -> &'r [f32] {
        let (width, heads) = (self.width, self.heads);
        let Rows { x, normed, qkv, inner, logits } = rows;
        let mut rows = count_rows(segments);
        embed(segments, &self.embed_tokens, self.embedding_scale, positions, x);
        for (index, (layer, slots)) in self.layers.iter().zip(caches).enumerate() {
            let part_rows = threads.rows_per_part(rows, layer.bytes());
            let parts = x.chunks(part_rows * width).zip(normed.chunks_mut(part_rows * width));
            threads.share(parts.zip(qkv.chunks_mut(part_rows * 3 * width)), |((x, normed), qkv), scratch| {
                let block = threads::block_rows(part_rows, layer.bytes());
                let blocks = x.chunks(block * width).zip(normed.chunks_mut(block * width));
                for ((x, normed), qkv) in blocks.zip(qkv.chunks_mut(block * 3 * width)) {
                    layer.attention_norm.apply(x, normed);
                    layer.qkv.apply(normed, Epilogue::Store, qkv, scratch);
                }
            });
            append_keys_values(slots, segments, width, qkv);
            let (slots, is_last) = (&*slots, index + 1 == self.layers.len());
            if is_last {
                // After the last layer's keys and values, only the rows that logits are computed for are needed.
                rows = keep_logits_rows(segments, width, x);
                keep_logits_rows(segments, 3 * width, qkv);
            }
            let tokens = |segment: &Segment| if is_last { segment.logits.clone() } else { 0..segment.tokens.len() };
            let (part_rows, inner_width) = (threads.rows_per_part(rows, layer.bytes()), layer.fc1.outputs());
            let inner = &mut inner[..rows * inner_width];
            let (x, normed) = (&mut x[..rows * width], &mut normed[..rows * width]);
            let parts = x.chunks_mut(part_rows * width).zip(normed.chunks_mut(part_rows * width));
            let parts =
                parts.zip(inner.chunks_mut(part_rows * inner_width)).zip(qkv.chunks(part_rows * 3 * width)).enumerate();
            threads.share(parts, |(part, (((x, normed), inner), qkv)), scratch| {
                let with_tokens = segments.iter().map(|segment| (segment, tokens(segment)));
                let mut queries = attention_of_part(with_tokens, part * part_rows, width, slots, qkv, normed);
                attention(&mut queries, heads, width / heads, scratch);
                // Magneto's extra norms: after the attention heads and inside the feed-forward block.
                let block = threads::block_rows(part_rows, layer.bytes());
                for (x, normed) in x.chunks_mut(block * width).zip(normed.chunks_mut(block * width)) {
                    let inner = &mut inner[..x.len() / width * inner_width];
                    layer.inner_attention_norm.apply_in_place(normed);
                    layer.out.apply(normed, Epilogue::Add, x, scratch);
                    layer.final_norm.apply(x, normed);
                    layer.fc1.apply(normed, Epilogue::Gelu, inner, scratch);
                    layer.ffn_norm.apply_in_place(inner);
                    layer.fc2.apply(inner, Epilogue::Add, x, scratch);
                }
            });
        }
        let x = &mut x[..rows * width];
        self.layer_norm.apply_in_place(x);
        linear(x, self.head(), None, Epilogue::Store, logits, threads.shared_scratch());
        logits
    }
}
