//! The decoder: Magneto sub-layer norms (Wang et al., 2022, <https://arxiv.org/abs/2210.06423>), sinusoidal positions
//! and preallocated keys and values; names `text_model.model.*`, the output head tied to `embed_tokens`.

use std::sync::Arc;
use std::time::Instant;

use kernels::cuda::index_tables::{NewRow, RowRequest};
use kernels::cuda::{
    Attention, Buffer, CudaError, Device, Embedding, KeyValueCache, KvFormat, Matrix, NewTokens, Norm, Residual,
    SelectedToken as RawChosen,
};

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::Computed;
use super::layers::{Map, matrix, norm, values};
use super::plan::{Plan, chosen, row_request};
use super::workspace::{Sizes, Workspace, recorded_batch};
use crate::backend::positions::Positions;
use crate::backend::{Allowed, Chosen, LogitsRequest, Segment};
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
    workspace: Option<Workspace<T, S>>,
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
            qkv: Map::concatenated(device, &attention, &["q_proj", "k_proj", "v_proj"], width, width)?,
            inner_attention_norm: norm("self_attn.inner_attn_ln", width)?,
            out: Map::load(device, &attention.pp("out_proj"), width, width)?,
            final_norm: norm("final_layer_norm", width)?,
            fc1: Map::load(device, &weights.pp("ffn.fc1"), width, inner)?,
            ffn_norm: norm("ffn.ffn_layernorm", inner)?,
            fc2: Map::load(device, &weights.pp("ffn.fc2"), inner, width)?,
        })
    }
}

impl<T: Computed, S: KvFormat<T>> Decoder<T, S> {
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
            workspace: None,
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
    pub(super) fn kv_capacity(&self) -> (usize, usize) {
        self.workspace.as_ref().map_or((0, 0), |workspace| (workspace.slots, workspace.length))
    }

    pub(super) fn reserve(&mut self, device: &Device, slots: usize, length: usize) -> Result<(), CudaError> {
        // What was kept goes first: the old and the new room may not fit together.
        self.workspace = None;
        // A token's position is at most one beyond its number in the sequence.
        let mut table = Vec::new();
        for position in 0..length + 2 {
            table.extend_from_slice(self.positions.row(position));
        }
        self.workspace = Some(Workspace::new(device, &self.sizes, slots, length, &table)?);
        Ok(())
    }

    /// Segments as `check_segments` lets them through, to what is wanted of their rows; logits go to `logits`, a row of
    /// the vocabulary each.
    pub(super) fn forward(
        &mut self,
        device: &Device,
        segments: &[Segment],
        requests: &[LogitsRequest],
        logits: &mut Vec<f32>,
    ) -> Result<Vec<Answer>, CudaError> {
        logits.clear();
        self.know_codes(device, requests)?;
        let (row_wants, whole): (Vec<RowRequest>, Vec<bool>) =
            requests.iter().map(|request| row_request(request, self.codes_of.as_ref())).unzip();
        let Some(mut workspace) = self.workspace.take() else {
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
        let plans = Plan::of_step(segments, &row_wants, &self.positions, workspace.capacity);
        let done =
            plans.iter().try_for_each(|plan| self.run(device, &mut workspace, plan, &whole, logits, &mut answers));
        self.workspace = Some(workspace);
        done.map(|()| answers)
    }

    /// Puts the grammar's table on the card, if there is another than before.
    fn know_codes(&mut self, device: &Device, requests: &[LogitsRequest]) -> Result<(), CudaError> {
        let asked = requests.iter().find_map(|request| match request {
            LogitsRequest::Best { allowed: Some(Allowed { codes, .. }), .. } => Some(codes),
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
        workspace: &mut Workspace<T, S>,
        plan: &Plan,
        whole: &[Option<usize>],
        logits: &mut [f32],
        answers: &mut [Answer],
    ) -> Result<(), CudaError> {
        let recorded =
            recorded_batch(plan.rows.len()).filter(|&batch| batch <= workspace.capacity && plan.only_newest());
        match recorded {
            Some(batch) if batch <= workspace.logits_rows => {
                self.run_newest(device, workspace, plan, batch)?;
                self.take_logits(device, workspace, plan, 0..plan.picks.len(), whole, logits)?;
            }
            _ => self.run_any(device, workspace, plan, whole, logits)?,
        }
        let mut words = vec![0u32; plan.requests.len() * 4];
        device.download(&workspace.choices, &mut words)?;
        for ((raw, request), &place) in RawChosen::read(&words).iter().zip(&plan.requests).zip(&plan.places) {
            if whole[place].is_none() {
                answers[place] = Answer::Chosen(chosen(raw, request));
            }
        }
        Ok(())
    }

    /// The step of a decoding batch: as it is the first time, which also loads its kernels, and recorded from then on.
    fn run_newest(
        &self,
        device: &Device,
        workspace: &mut Workspace<T, S>,
        plan: &Plan,
        batch: usize,
    ) -> Result<(), CudaError> {
        let spare = NewRow { token: 0, position: 0, slot: workspace.slots as u32, column: 0 };
        let nothing = RowRequest { target: Some(0), set: RowRequest::EVERYTHING, upper_left: 0, patches: (0, 0) };
        let fill = batch - plan.rows.len();
        let rows: Vec<_> = plan.rows.iter().copied().chain(std::iter::repeat_n(spare, fill)).collect();
        let requests: Vec<_> = plan.requests.iter().copied().chain(std::iter::repeat_n(nothing, fill)).collect();
        workspace.rows.set(device, &rows)?;
        workspace.requests.set(device, &requests)?;
        let pass =
            Pass { singles: batch, others: 0, append_in_place: true, pictures: false, wanted: batch, picked: false };
        if let Some(graph) = workspace.graphs.get_mut(&batch) {
            return graph.replay();
        }
        self.launch(device, workspace, &pass)?;
        self.launch_head(device, workspace, &pass, 0..batch)?;
        let started = Instant::now();
        let graph = device.record(|| {
            self.launch(device, workspace, &pass)?;
            self.launch_head(device, workspace, &pass, 0..batch)
        })?;
        tracing::debug!(batch, seconds = started.elapsed().as_secs_f64(), "step is recorded");
        workspace.graphs.insert(batch, graph);
        Ok(())
    }

    /// Any rows, launched as they are.
    fn run_any(
        &self,
        device: &Device,
        workspace: &mut Workspace<T, S>,
        plan: &Plan,
        whole: &[Option<usize>],
        logits: &mut [f32],
    ) -> Result<(), CudaError> {
        workspace.rows.set(device, &plan.rows)?;
        workspace.requests.set(device, &plan.requests)?;
        workspace.picks.set(device, &plan.picks)?;
        workspace.tiles.set(device, &plan.tiles)?;
        workspace.copies.set(device, &plan.copies)?;
        let pictures = plan.has_pictures();
        if pictures {
            let rows: Vec<_> =
                plan.pictures.iter().map(|row| row.as_ref().map(|(values, index)| (values, *index))).collect();
            workspace.pictures.set(device, &rows)?;
        }
        let pass = Pass {
            singles: plan.singles,
            others: plan.rows.len() - plan.singles,
            append_in_place: false,
            pictures,
            wanted: plan.picks.len(),
            picked: true,
        };
        self.launch(device, workspace, &pass)?;
        for first in (0..pass.wanted).step_by(workspace.logits_rows) {
            let some = first..pass.wanted.min(first + workspace.logits_rows);
            self.launch_head(device, workspace, &pass, some.clone())?;
            self.take_logits(device, workspace, plan, some, whole, logits)?;
        }
        Ok(())
    }

    /// Reads the logits of those of `rows` (of the wanted ones, whose logits are there) that they are wanted for.
    fn take_logits(
        &self,
        device: &Device,
        workspace: &Workspace<T, S>,
        plan: &Plan,
        rows: std::ops::Range<usize>,
        whole: &[Option<usize>],
        logits: &mut [f32],
    ) -> Result<(), CudaError> {
        let (vocabulary, stride) = (self.sizes.vocabulary, self.sizes.logits_stride());
        for (index, &place) in plan.places[rows].iter().enumerate() {
            if let Some(row) = whole[place] {
                let from = workspace.logits.part(index * stride..index * stride + vocabulary);
                device.download(&from, &mut logits[row * vocabulary..][..vocabulary])?;
            }
        }
        Ok(())
    }

    /// All layers.
    fn launch(&self, device: &Device, workspace: &Workspace<T, S>, pass: &Pass) -> Result<(), CudaError> {
        let rows = pass.singles + pass.others;
        let Workspace { x, y, normed, qkv, inner, .. } = workspace;
        let embedding = Embedding {
            table: &self.embed_tokens,
            image_rows: pass.pictures.then_some(&workspace.pictures),
            scale: self.embedding_scale,
            positions: &workspace.position_table,
        };
        device.embed(&workspace.rows, rows, &embedding, x)?;
        let residual =
            |added, norm| Residual { x, added, row_indices: None, rows, norm, to_unit_length: false, out: normed };
        let mut added: Option<(&Buffer<T>, &Buffer<f32>)> = None;
        for (layer, cache) in self.layers.iter().zip(&workspace.caches) {
            device.residual_norm(&residual(added, &layer.attention_norm))?;
            layer.qkv.apply(device, normed, rows, qkv)?;
            self.attend(device, workspace, layer, cache, pass)?;
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
        workspace: &Workspace<T, S>,
        layer: &Layer<T>,
        cache: &KeyValueCache<S>,
        pass: &Pass,
    ) -> Result<(), CudaError> {
        let Sizes { width, heads, .. } = self.sizes;
        let Workspace { qkv, normed, rows, .. } = workspace;
        let Pass { singles, others, append_in_place, .. } = *pass;
        let tokens = NewTokens { qkv, bias: &layer.qkv.bias };
        if !append_in_place {
            device.append(rows, singles + others, tokens, cache)?;
            device.copy_columns(&workspace.copies, cache)?;
        }
        if singles > 0 {
            let splits = workspace.splits.of(self.sizes.splits(singles));
            device.attend_newest(rows, singles, tokens, cache, append_in_place, &splits)?;
            device.merge_norm(&splits, singles, heads, &layer.inner_attention_norm, normed)?;
        }
        if others > 0 {
            device.attend(&Attention {
                tiles: &workspace.tiles,
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
        workspace: &Workspace<T, S>,
        pass: &Pass,
        wanted: std::ops::Range<usize>,
    ) -> Result<(), CudaError> {
        let Some(last) = self.layers.last() else { return Ok(()) };
        let count = wanted.len();
        let picks = workspace.picks.from(wanted.start);
        device.residual_norm(&Residual {
            x: &workspace.x,
            added: Some((&workspace.y, &last.fc2.bias)),
            row_indices: pass.picked.then_some(&picks),
            rows: count,
            norm: &self.layer_norm,
            to_unit_length: false,
            out: &workspace.normed,
        })?;
        let (head, stride) = (self.lm_head.as_ref().unwrap_or(&self.embed_tokens), self.sizes.logits_stride());
        device.product(head, &workspace.normed, count, &workspace.logits, stride)?;
        let choices = workspace.choices.part(wanted.start * 4..workspace.choices.len());
        device.select_tokens(
            &workspace.logits,
            count,
            stride,
            &workspace.requests.from(wanted.start),
            &self.codes,
            &choices,
        )
    }
}
