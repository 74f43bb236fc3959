//! The decoder: Magneto sub-layer norms (Wang et al., 2022, <https://arxiv.org/abs/2210.06423>), sinusoidal positions
//! and preallocated keys and values; names `text_model.model.*`, the output head tied to `embed_tokens`.

use std::sync::Arc;
use std::time::Instant;

use kernels::cuda::tables::{NewRow, Want as RowWant};
use kernels::cuda::{
    Attention, Buffer, Chosen as RawChosen, CudaError, Device, Embedding, Kept, KeyValueCache, Matrix, NewTokens, Norm,
    Residual,
};

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::Computed;
use super::layers::{Map, matrix, norm, values};
use super::plan::{Plan, chosen, row_want};
use super::room::{Room, Sizes, recorded_batch};
use crate::backend::positions::Positions;
use crate::backend::{Allowed, Chosen, Segment, Want};
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::{Config, TextConfig};

/// Computed in `T`, with keys and values kept as `S`.
pub(super) struct Decoder<T, S> {
    embed_tokens: Matrix<T>,
    /// Set where the checkpoint's head is not tied.
    lm_head: Option<Matrix<T>>,
    layers: Vec<Layer<T>>,
    layer_norm: Norm,
    embedding_scale: f32,
    positions: Positions,
    sizes: Sizes,
    /// The tokens' codes that rows are masked by, and whose they are.
    codes: Buffer<u16>,
    codes_of: Option<Arc<[u16]>>,
    room: Option<Room<T, S>>,
}

struct Layer<T> {
    attention_norm: Norm,
    qkv: Map<T>,
    inner_attention_norm: Norm,
    out: Map<T>,
    final_norm: Norm,
    fc1: Map<T>,
    ffn_norm: Norm,
    fc2: Map<T>,
}

/// What comes of a row.
pub(super) enum Answer {
    Chosen(Chosen),
    /// Which of the rows of logits.
    Logits(usize),
}

/// The rows of a pass, as kernels are launched for them.
#[derive(Clone, Copy)]
struct Pass {
    /// One new token each.
    singles: usize,
    /// Of sequences with more.
    others: usize,
    /// The newest keys and values are written by the attention that reads them first.
    append_in_place: bool,
    pictures: bool,
    /// Rows that something is wanted of: picked ones, or all in order.
    wanted: usize,
    picked: bool,
}

impl<T: Computed> Layer<T> {
    fn load(device: &Device, weights: &Weights, config: &TextConfig) -> Result<Self, CheckpointError> {
        let (width, inner, eps) = (config.embed_dim, config.ffn_dim, config.layer_norm_eps);
        let norm = |name, width| norm::<T>(device, &weights.pp(name), width, eps);
        let attention = weights.pp("self_attn");
        Ok(Self {
            attention_norm: norm("self_attn_layer_norm", width)?,
            qkv: Map::side_by_side(device, &attention, &["q_proj", "k_proj", "v_proj"], width, width)?,
            inner_attention_norm: norm("self_attn.inner_attn_ln", width)?,
            out: Map::load(device, &attention.pp("out_proj"), width, width)?,
            final_norm: norm("final_layer_norm", width)?,
            fc1: Map::load(device, &weights.pp("ffn.fc1"), width, inner)?,
            ffn_norm: norm("ffn.ffn_layernorm", inner)?,
            fc2: Map::load(device, &weights.pp("ffn.fc2"), inner, width)?,
        })
    }
}

impl<T: Computed, S: Kept<T>> Decoder<T, S> {
    pub(super) fn load(device: &Device, weights: &Weights, config: &Config) -> Result<Self, CheckpointError> {
        let text = &config.text_config;
        let (width, vocabulary, model) = (text.embed_dim, text.vocab_size, weights.pp("model"));
        let sizes = Sizes { width, heads: text.attention_heads, inner: text.ffn_dim, layers: text.layers, vocabulary };
        let table = |weights: &Weights, name| {
            let mut rows = values::<T>(&weights.get([vocabulary, width], name)?);
            rows.resize(sizes.logits_stride() * width, T::default());
            Ok::<_, CheckpointError>(matrix(device, &rows, sizes.logits_stride(), width)?)
        };
        let layers = model.pp("layers");
        Ok(Self {
            embed_tokens: table(&model, "embed_tokens.weight")?,
            lm_head: match config.tie_word_embeddings {
                true => None,
                false => Some(table(weights, "lm_head.weight")?),
            },
            // Side by side, for it is the host's copying that takes the time.
            layers: (0..text.layers)
                .into_par_iter()
                .map(|n| Layer::load(device, &layers.pp(n), text))
                .collect::<Result<_, _>>()?,
            layer_norm: norm::<T>(device, &model.pp("layer_norm"), width, text.layer_norm_eps)?,
            embedding_scale: if text.scale_embedding { (width as f32).sqrt() } else { 1.0 },
            positions: Positions::new(width, text.pad_token_id),
            sizes,
            codes: device.zeros(vocabulary)?,
            codes_of: None,
            room: None,
        })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.sizes.vocabulary
    }

    /// Bytes that the keys and values of a slot of `length` tokens take.
    pub(super) fn slot_bytes(&self, length: usize) -> usize {
        self.sizes.layers * KeyValueCache::<S>::slot_bytes::<T>(length, self.sizes.heads, self.sizes.head_dim())
    }

    /// Slots, and tokens of each.
    pub(super) fn room(&self) -> (usize, usize) {
        self.room.as_ref().map_or((0, 0), |room| (room.slots, room.length))
    }

    pub(super) fn reserve(&mut self, device: &Device, slots: usize, length: usize) -> Result<(), CudaError> {
        // What was kept goes first: the old and the new room may not fit together.
        self.room = None;
        // A token's position is at most one beyond its number in the sequence.
        let mut table = Vec::new();
        for position in 0..length + 2 {
            table.extend_from_slice(self.positions.row(position));
        }
        self.room = Some(Room::new(device, &self.sizes, slots, length, &table)?);
        Ok(())
    }

    /// Segments as `check_segments` lets them through, to what is wanted of their rows; logits go to `logits`, a row of
    /// the vocabulary each.
    pub(super) fn forward(
        &mut self,
        device: &Device,
        segments: &[Segment],
        wants: &[Want],
        logits: &mut Vec<f32>,
    ) -> Result<Vec<Answer>, CudaError> {
        logits.clear();
        self.know_codes(device, wants)?;
        let (row_wants, whole): (Vec<RowWant>, Vec<bool>) =
            wants.iter().map(|want| row_want(want, self.codes_of.as_ref())).unzip();
        let Some(mut room) = self.room.take() else {
            return Ok(Vec::new());
        };
        // Rows of logits in the answers' order.
        let mut next = 0;
        let place = |&whole: &bool| {
            next += usize::from(whole);
            whole.then(|| next - 1)
        };
        let whole: Vec<Option<usize>> = whole.iter().map(place).collect();
        logits.resize(next * self.sizes.vocabulary, 0.0);
        let mut answers: Vec<Answer> = whole.iter().map(|index| Answer::Logits(index.unwrap_or(0))).collect();
        let plans = Plan::of_step(segments, &row_wants, &self.positions, room.capacity);
        let done = plans.iter().try_for_each(|plan| self.run(device, &mut room, plan, &whole, logits, &mut answers));
        self.room = Some(room);
        done.map(|()| answers)
    }

    /// Puts the grammar's table on the card, if there is another than before.
    fn know_codes(&mut self, device: &Device, wants: &[Want]) -> Result<(), CudaError> {
        let asked = wants.iter().find_map(|want| match want {
            Want::Best { allowed: Some(Allowed { codes, .. }), .. } => Some(codes),
            _ => None,
        });
        let Some(codes) = asked.filter(|codes| codes.len() == self.sizes.vocabulary) else {
            return Ok(());
        };
        if !self.codes_of.as_ref().is_some_and(|known| Arc::ptr_eq(known, codes)) {
            device.upload(codes, &self.codes)?;
            self.codes_of = Some(Arc::clone(codes));
        }
        Ok(())
    }

    fn run(
        &self,
        device: &Device,
        room: &mut Room<T, S>,
        plan: &Plan,
        whole: &[Option<usize>],
        logits: &mut [f32],
        answers: &mut [Answer],
    ) -> Result<(), CudaError> {
        let recorded = recorded_batch(plan.rows.len()).filter(|&batch| batch <= room.capacity && plan.only_newest());
        match recorded {
            Some(batch) if batch <= room.logits_rows => {
                self.run_newest(device, room, plan, batch)?;
                self.take_logits(device, room, plan, 0..plan.picks.len(), whole, logits)?;
            }
            _ => self.run_any(device, room, plan, whole, logits)?,
        }
        let mut words = vec![0u32; plan.wants.len() * 4];
        device.download(&room.choices, &mut words)?;
        for ((raw, want), &place) in RawChosen::read(&words).iter().zip(&plan.wants).zip(&plan.places) {
            if whole[place].is_none() {
                answers[place] = Answer::Chosen(chosen(raw, want));
            }
        }
        Ok(())
    }

    /// The step of a decoding batch: as it is the first time, which also loads its kernels, and recorded from then on.
    fn run_newest(&self, device: &Device, room: &mut Room<T, S>, plan: &Plan, batch: usize) -> Result<(), CudaError> {
        let spare = NewRow { token: 0, position: 0, slot: room.slots as u32, column: 0 };
        let nothing = RowWant { target: Some(0), set: RowWant::EVERYTHING, upper_left: 0, patches: (0, 0) };
        let fill = batch - plan.rows.len();
        let rows: Vec<_> = plan.rows.iter().copied().chain(std::iter::repeat_n(spare, fill)).collect();
        let wants: Vec<_> = plan.wants.iter().copied().chain(std::iter::repeat_n(nothing, fill)).collect();
        room.rows.set(device, &rows)?;
        room.wants.set(device, &wants)?;
        let pass =
            Pass { singles: batch, others: 0, append_in_place: true, pictures: false, wanted: batch, picked: false };
        if let Some(graph) = room.graphs.get_mut(&batch) {
            return graph.replay();
        }
        self.launch(device, room, &pass)?;
        self.launch_head(device, room, &pass, 0..batch)?;
        let started = Instant::now();
        let graph = device.record(|| {
            self.launch(device, room, &pass)?;
            self.launch_head(device, room, &pass, 0..batch)
        })?;
        tracing::debug!(batch, seconds = started.elapsed().as_secs_f64(), "step is recorded");
        room.graphs.insert(batch, graph);
        Ok(())
    }

    /// Any rows, launched as they are.
    fn run_any(
        &self,
        device: &Device,
        room: &mut Room<T, S>,
        plan: &Plan,
        whole: &[Option<usize>],
        logits: &mut [f32],
    ) -> Result<(), CudaError> {
        room.rows.set(device, &plan.rows)?;
        room.wants.set(device, &plan.wants)?;
        room.picks.set(device, &plan.picks)?;
        room.tiles.set(device, &plan.tiles)?;
        room.copies.set(device, &plan.copies)?;
        let pictures = plan.has_pictures();
        if pictures {
            let rows: Vec<_> =
                plan.pictures.iter().map(|row| row.as_ref().map(|(values, index)| (values, *index))).collect();
            room.pictures.set(device, &rows)?;
        }
        let pass = Pass {
            singles: plan.singles,
            others: plan.rows.len() - plan.singles,
            append_in_place: false,
            pictures,
            wanted: plan.picks.len(),
            picked: true,
        };
        self.launch(device, room, &pass)?;
        for first in (0..pass.wanted).step_by(room.logits_rows) {
            let some = first..pass.wanted.min(first + room.logits_rows);
            self.launch_head(device, room, &pass, some.clone())?;
            self.take_logits(device, room, plan, some, whole, logits)?;
        }
        Ok(())
    }

    /// Reads the logits of those of `rows` (of the wanted ones, whose logits are there) that they are wanted for.
    fn take_logits(
        &self,
        device: &Device,
        room: &Room<T, S>,
        plan: &Plan,
        rows: std::ops::Range<usize>,
        whole: &[Option<usize>],
        logits: &mut [f32],
    ) -> Result<(), CudaError> {
        let (vocabulary, stride) = (self.sizes.vocabulary, self.sizes.logits_stride());
        for (index, &place) in plan.places[rows].iter().enumerate() {
            if let Some(row) = whole[place] {
                let from = room.logits.part(index * stride..index * stride + vocabulary);
                device.download(&from, &mut logits[row * vocabulary..][..vocabulary])?;
            }
        }
        Ok(())
    }

    /// All layers.
    fn launch(&self, device: &Device, room: &Room<T, S>, pass: &Pass) -> Result<(), CudaError> {
        let rows = pass.singles + pass.others;
        let Room { x, y, normed, qkv, inner, .. } = room;
        let embedding = Embedding {
            table: &self.embed_tokens,
            pictures: pass.pictures.then_some(&room.pictures),
            scale: self.embedding_scale,
            positions: &room.position_table,
        };
        device.embed(&room.rows, rows, &embedding, x)?;
        let residual = |added, norm| Residual { x, added, picks: None, rows, norm, to_unit_length: false, out: normed };
        let mut added: Option<(&Buffer<T>, &Buffer<f32>)> = None;
        for (layer, cache) in self.layers.iter().zip(&room.caches) {
            device.residual_norm(&residual(added, &layer.attention_norm))?;
            layer.qkv.apply(device, normed, rows, qkv)?;
            self.attend(device, room, layer, cache, pass)?;
            layer.out.apply(device, normed, rows, y)?;
            device.residual_norm(&residual(Some((y, &layer.out.bias)), &layer.final_norm))?;
            layer.fc1.apply(device, normed, rows, inner)?;
            device.gelu_norm(inner, rows, &layer.fc1.bias, &layer.ffn_norm)?;
            layer.fc2.apply(device, inner, rows, y)?;
            added = Some((y, &layer.fc2.bias));
        }
        Ok(())
    }

    /// Attention of a layer, from `qkv` to the normed heads in `normed`.
    fn attend(
        &self,
        device: &Device,
        room: &Room<T, S>,
        layer: &Layer<T>,
        cache: &KeyValueCache<S>,
        pass: &Pass,
    ) -> Result<(), CudaError> {
        let Sizes { width, heads, .. } = self.sizes;
        let Room { qkv, normed, rows, .. } = room;
        let Pass { singles, others, append_in_place, .. } = *pass;
        let tokens = NewTokens { qkv, bias: &layer.qkv.bias };
        if !append_in_place {
            device.append(rows, singles + others, tokens, cache)?;
            device.copy_columns(&room.copies, cache)?;
        }
        if singles > 0 {
            let splits = room.splits.of(self.sizes.splits(singles));
            device.attend_newest(rows, singles, tokens, cache, append_in_place, &splits)?;
            device.merge_norm(&splits, singles, heads, &layer.inner_attention_norm, normed)?;
        }
        if others > 0 {
            device.attend(&Attention {
                tiles: &room.tiles,
                queries: qkv,
                query_stride: 3 * width,
                query_bias: Some(&layer.qkv.bias.part(0..width)),
                value_bias: None,
                contexts: &cache.contexts(),
                heads,
                head_dim: self.sizes.head_dim(),
                out: normed,
            })?;
            let own = normed.part(singles * width..normed.len());
            device.norm_rows(&own, others, &layer.inner_attention_norm)?;
        }
        Ok(())
    }

    /// The head for some of the wanted rows, and what is wanted of them.
    fn launch_head(
        &self,
        device: &Device,
        room: &Room<T, S>,
        pass: &Pass,
        wanted: std::ops::Range<usize>,
    ) -> Result<(), CudaError> {
        let Some(last) = self.layers.last() else { return Ok(()) };
        let count = wanted.len();
        let picks = room.picks.from(wanted.start);
        device.residual_norm(&Residual {
            x: &room.x,
            added: Some((&room.y, &last.fc2.bias)),
            picks: pass.picked.then_some(&picks),
            rows: count,
            norm: &self.layer_norm,
            to_unit_length: false,
            out: &room.normed,
        })?;
        let (head, stride) = (self.lm_head.as_ref().unwrap_or(&self.embed_tokens), self.sizes.logits_stride());
        device.product(head, &room.normed, count, &room.logits, stride)?;
        let choices = room.choices.part(wanted.start * 4..room.choices.len());
        device.choose(&room.logits, count, stride, &room.wants.from(wanted.start), &self.codes, &choices)
    }
}
