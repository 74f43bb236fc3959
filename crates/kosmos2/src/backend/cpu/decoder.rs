//! The decoder: Magneto sub-layer norms (Wang et al., 2022, <https://arxiv.org/abs/2210.06423>), sinusoidal positions
//! and preallocated keys and values; names `text_model.model.*`, the output head tied to `embed_tokens`.

use candle_core::Tensor;
use std::ops::Range;

use kernels::cpu::{Attention, Context, Epilogue, KeyValueCache, PackedWeights, WeightFormat, attention, linear};

use super::layers::{Buffer, Map, Norm, with_values};
use super::threads::{self, PerThread, SingleThread};
use crate::backend::positions::Positions;
use crate::backend::{Chosen, CopyFrom, Logits, LogitsOutput, LogitsRequest, Segment, logits};
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::{Config, TextConfig};

pub(super) struct Decoder {
    network: Network,
    positions: Positions,
    /// Keys and values: `[layer][slot]`.
    caches: Vec<Vec<KeyValueCache>>,
    /// Tokens of a slot.
    length: usize,
    buffers: Buffers,
    lone: SingleThread<()>,
}

/// The weights.
struct Network {
    embed_tokens: PackedWeights,
    /// Set where the head is not simply `embed_tokens`: the checkpoint does not tie it, or it is packed otherwise.
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
            qkv: Map::concatenated(&attention, &["q_proj", "k_proj", "v_proj"], width, width, format)?,
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
            length: 0,
            buffers: Buffers::default(),
            lone: SingleThread::default(),
        })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.network.embed_tokens.outputs()
    }

    pub(super) fn reserve(&mut self, slots: usize, length: usize) {
        let Network { layers, heads, width, .. } = &self.network;
        let slot = |_| KeyValueCache::new(length, *heads, width / heads);
        self.caches = layers.iter().map(|_| (0..slots).map(slot).collect()).collect();
        self.length = length;
    }

    /// Slots, and tokens of each.
    pub(super) fn kv_capacity(&self) -> (usize, usize) {
        (self.caches.first().map_or(0, Vec::len), self.length)
    }

    pub(super) fn slot_bytes(&self, length: usize) -> u64 {
        let Network { layers, heads, width, .. } = &self.network;
        (layers.len() * KeyValueCache::bytes(length, *heads, width / heads)) as u64
    }

    /// Segments as [`super::check_segments`] lets them through.
    pub(super) fn forward(&mut self, segments: &[Segment], threads: &mut PerThread) -> Logits<'_> {
        self.run(segments, &[], threads);
        let outputs = self.vocabulary();
        Logits::new(self.buffers.logits.take(count_wanted(segments) * outputs), outputs)
    }

    /// As [`Self::forward`], with tokens in place of logits where they were chosen while these were in the caches.
    pub(super) fn decode(
        &mut self,
        segments: &[Segment],
        requests: &[LogitsRequest],
        threads: &mut PerThread,
    ) -> Vec<LogitsOutput<'_>> {
        let chosen = self.run(segments, requests, threads);
        let outputs = self.vocabulary();
        let logits = self.buffers.logits.take(count_wanted(segments) * outputs);
        let chosen = chosen.into_iter().chain(std::iter::repeat(None));
        logits
            .chunks_exact(outputs)
            .zip(chosen)
            .map(|(row, chosen)| chosen.map_or(LogitsOutput::Logits(row), LogitsOutput::Chosen))
            .collect()
    }

    /// Fills the buffer of logits; what was chosen of the first rows.
    fn run(
        &mut self,
        segments: &[Segment],
        requests: &[LogitsRequest],
        threads: &mut PerThread,
    ) -> Vec<Option<Chosen>> {
        let Self { network, positions, caches, buffers, lone, .. } = self;
        let Buffers { x, normed, qkv, inner, logits } = buffers;
        let (width, inner_width, outputs) = (network.width, network.inner_width(), network.head().outputs());
        let (rows, wanted) = (count_rows(segments), count_wanted(segments));
        let mut rest = Rows {
            x: x.take(rows * width),
            normed: normed.take(rows * width),
            qkv: qkv.take(rows * 3 * width),
            inner: inner.take(rows * inner_width),
            logits: logits.take(wanted * outputs),
        };
        // No token has a position further on than one behind all of its sequence.
        positions.reach(segments.iter().map(|segment| segment.seen + segment.tokens.len() + 1).max().unwrap_or(0));
        let positions = &*positions;
        let runs = network.runs(segments);
        let mut left: Vec<Slots> = caches.iter_mut().map(|layer| layer.iter_mut().map(Some).collect()).collect();
        if let [_] = runs[..] {
            network.forward(segments, positions, &mut left, rest, threads);
            return Vec::new();
        }
        // Each thread has sequences of its own and waits for nobody before the last layer is behind them.
        let mut parts = Vec::with_capacity(runs.len());
        let mut requests = requests.iter();
        for own in runs {
            let slots: Vec<Slots> = left.iter_mut().map(|layer| take_slots(layer, own)).collect();
            let (rows, others) = rest.split_at(count_rows(own), count_wanted(own), (width, inner_width, outputs));
            rest = others;
            parts.push((own, slots, rows, requests.by_ref().take(count_wanted(own)).collect::<Vec<_>>()));
        }
        let chosen = lone.share(parts, |(own, mut slots, rows, requests), threads, ()| {
            let logits = network.forward(own, positions, &mut slots, rows, threads);
            let rows = requests.into_iter().zip(logits.chunks_exact(outputs));
            rows.map(|(request, row)| logits::choose(request, row)).collect::<Vec<_>>()
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

    /// Runs of segments that threads can take through all layers by themselves: one of all segments where layers are
    /// large, sequences take over columns from each other, or one thread would have much more to do than another.
    fn runs<'r, 's>(&self, segments: &'r [Segment<'s>]) -> Vec<&'r [Segment<'s>]> {
        let parts = rayon::current_num_threads().min(segments.len());
        let is_apart = |segment: &Segment| segment.copy.is_none();
        let is_small = self.layers.first().is_some_and(|layer| threads::is_small(layer.bytes()));
        let together = || vec![segments];
        if parts < 2 || !is_small || !segments.iter().all(is_apart) {
            return together();
        }
        let rows = count_rows(segments);
        let (mut runs, mut start, mut taken) = (Vec::with_capacity(parts), 0, 0);
        for part in 1..=parts {
            let (first, before) = (start, taken);
            // Up to the segment whose middle lies beyond the part's share.
            while let Some(segment) = segments.get(start)
                && (part == parts || 2 * taken + segment.tokens.len() <= 2 * rows * part / parts)
            {
                taken += segment.tokens.len();
                start += 1;
            }
            if taken - before > rows.div_ceil(parts) + MOST_UNEVEN {
                return together();
            }
            if start > first {
                runs.push(&segments[first..start]);
            }
        }
        runs
    }

    /// Segments whose slots are there through all layers and the head, to their logits.
    fn forward<'r>(
        &self,
        segments: &[Segment],
        positions: &Positions,
        caches: &mut [Slots],
        rows: Rows<'r>,
        threads: &mut PerThread,
    ) -> &'r [f32] {
        let (width, heads) = (self.width, self.heads);
        let Rows { x, normed, qkv, inner, logits } = rows;
        let mut rows = count_rows(segments);
        embed(segments, &self.embed_tokens, self.embedding_scale, positions, x);
        for (index, (layer, slots)) in self.layers.iter().zip(caches).enumerate() {
            let each = threads.rows_each(rows, layer.bytes());
            let parts = x.chunks(each * width).zip(normed.chunks_mut(each * width));
            threads.share(parts.zip(qkv.chunks_mut(each * 3 * width)), |((x, normed), qkv), scratch| {
                let block = threads::block_of(each, layer.bytes());
                let blocks = x.chunks(block * width).zip(normed.chunks_mut(block * width));
                for ((x, normed), qkv) in blocks.zip(qkv.chunks_mut(block * 3 * width)) {
                    layer.attention_norm.apply(x, normed);
                    layer.qkv.apply(normed, Epilogue::Store, qkv, scratch);
                }
            });
            remember(slots, segments, width, qkv);
            let (slots, is_last) = (&*slots, index + 1 == self.layers.len());
            if is_last {
                // Behind the last keys and values only the rows that logits are wanted for matter.
                rows = keep_wanted(segments, width, x);
                keep_wanted(segments, 3 * width, qkv);
            }
            let wanted = |segment: &Segment| if is_last { segment.logits.clone() } else { 0..segment.tokens.len() };
            let (each, inner_width) = (threads.rows_each(rows, layer.bytes()), layer.fc1.outputs());
            let inner = &mut inner[..rows * inner_width];
            let (x, normed) = (&mut x[..rows * width], &mut normed[..rows * width]);
            let parts = x.chunks_mut(each * width).zip(normed.chunks_mut(each * width));
            let parts = parts.zip(inner.chunks_mut(each * inner_width)).zip(qkv.chunks(each * 3 * width)).enumerate();
            threads.share(parts, |(part, (((x, normed), inner), qkv)), scratch| {
                let own = segments.iter().map(|segment| (segment, wanted(segment)));
                let mut jobs = queries_of(own, part * each, width, slots, qkv, normed);
                attention(&mut jobs, heads, width / heads, scratch);
                // Magneto's extra norms: on the joined heads before the output map, and inside the feed-forward block.
                let block = threads::block_of(each, layer.bytes());
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
        linear(x, self.head(), None, Epilogue::Store, logits, threads.together());
        logits
    }
}

/// Rows that a thread may have more than its share: computed alone they take as long as waiting for each other in
/// every layer.
const MOST_UNEVEN: usize = 32;

/// A layer's slots, as far as they are at hand.
type Slots<'a> = Vec<Option<&'a mut KeyValueCache>>;

/// Takes the segments' slots out of those that are left.
fn take_slots<'a>(left: &mut Slots<'a>, segments: &[Segment]) -> Slots<'a> {
    let mut own: Slots = left.iter().map(|_| None).collect();
    segments.iter().for_each(|segment| own[segment.slot] = left[segment.slot].take());
    own
}

fn count_rows(segments: &[Segment]) -> usize {
    segments.iter().map(|segment| segment.tokens.len()).sum()
}

fn count_wanted(segments: &[Segment]) -> usize {
    segments.iter().map(|segment| segment.logits.len()).sum()
}

/// The buffers' rows that belong to some segments.
struct Rows<'a> {
    x: &'a mut [f32],
    normed: &'a mut [f32],
    qkv: &'a mut [f32],
    inner: &'a mut [f32],
    logits: &'a mut [f32],
}

impl Rows<'_> {
    /// The first so many rows and logits, and the others.
    fn split_at(
        self,
        rows: usize,
        wanted: usize,
        (width, inner_width, outputs): (usize, usize, usize),
    ) -> (Self, Self) {
        let (x, other_x) = self.x.split_at_mut(rows * width);
        let (normed, other_normed) = self.normed.split_at_mut(rows * width);
        let (qkv, other_qkv) = self.qkv.split_at_mut(rows * 3 * width);
        let (inner, other_inner) = self.inner.split_at_mut(rows * inner_width);
        let (logits, other_logits) = self.logits.split_at_mut(wanted * outputs);
        let others =
            Self { x: other_x, normed: other_normed, qkv: other_qkv, inner: other_inner, logits: other_logits };
        (Self { x, normed, qkv, inner, logits }, others)
    }
}

/// What the first layer takes: token or image embeddings, scaled, plus their positions' rows.
fn embed(segments: &[Segment], table: &PackedWeights, scale: f32, positions: &Positions, x: &mut [f32]) {
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
            row.iter_mut().zip(positions.row_within(position)).for_each(|(value, p)| *value = *value * scale + p);
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

/// Writes the keys and values of `qkv` [rows, 3·width] behind those that are there; then takes over what a segment is
/// to have from another slot, which may have been computed in this very step.
fn remember(slots: &mut Slots, segments: &[Segment], width: usize, qkv: &[f32]) {
    let mut rows = qkv.chunks_exact(3 * width);
    for segment in segments {
        let Some(cache) = &mut slots[segment.slot] else { unreachable!("a segment's own slot is at hand") };
        for (place, row) in (segment.cached..segment.cached + segment.tokens.len()).zip(&mut rows) {
            cache.write(place, &row[width..2 * width], &row[2 * width..]);
        }
    }
    for segment in segments {
        if let Some(CopyFrom { slot, columns }) = &segment.copy
            && let Ok([Some(to), Some(from)]) = slots.get_disjoint_mut([segment.slot, *slot])
        {
            to.copy_from(from, columns.clone());
        }
    }
}

/// Attention of a run of rows, from row `first` on, where each segment has rows for some of its tokens: their queries
/// stand in `qkv` [rows, 3·width].
fn queries_of<'a, 's>(
    segments: impl Iterator<Item = (&'s Segment<'s>, Range<usize>)>,
    first: usize,
    width: usize,
    slots: &'a Slots,
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
        let Some(cache) = &slots[segment.slot] else { unreachable!("a segment's own slot is at hand") };
        let cached = segment.cached + tokens.start + taken.start - own.start;
        let (queries, next) = qkv.split_at(taken.len() * 3 * width);
        qkv = next;
        let (mixed, next) = std::mem::take(&mut out).split_at_mut(taken.len() * width);
        out = next;
        jobs.push(Attention {
            queries,
            query_stride: 3 * width,
            context: Context::Cache(cache),
            key_count: cached + taken.len(),
            causal_offset: Some(cached),
            out: mixed,
        });
    }
    jobs
}
