//! The decoder: Magneto sub-layer norms (Wang et al., 2022, <https://arxiv.org/abs/2210.06423>), sinusoidal positions
//! and preallocated keys and values. Weights: `text_model.model.*`, the output head tied to `embed_tokens`.

use std::sync::Arc;
use std::time::Instant;

use kernels::cuda::index_tables::{NewRow, RowRequest};
use kernels::cuda::{
    Attention, Buffer, CudaError, Device, Embedding, KeyValueCache, KvFormat, Matrix, NewTokens, Norm, Residual,
    SelectedToken as RawChosen,
};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::computed::Computed;
use super::layer::DecoderLayer;
use super::layers::{matrix, norm, values};
use super::plan::{Plan, chosen_token, row_request};
use super::workspace::{Sizes, Workspace, recorded_batch};
use crate::backend::logits::{ChosenToken, LogitsRequest, TokenMask};
use crate::backend::positions::Positions;
use crate::backend::segment::Segment;
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::Config;

/// The decoder, computed in `T`, with keys and values stored as `S`.
pub(super) struct Decoder<T, S> {
    embed_tokens: Matrix<T>,
    /// `None` if the head is tied to `embed_tokens`.
    lm_head: Option<Matrix<T>>,
    layers: Vec<DecoderLayer<T>>,
    layer_norm: Norm,
    embedding_scale: f32,
    positions: Positions,
    sizes: Sizes,
    /// Token codes of a grammar in GPU memory, and the host's copy of them.
    codes: Buffer<u16>,
    uploaded_codes: Option<Arc<[u16]>>,
    workspace: Option<Workspace<T, S>>,
}

/// The output for a row.
pub(super) enum RowOutput {
    Chosen(ChosenToken),
    /// Index of its row among the downloaded logits.
    Logits(usize),
}

/// The shape of a pass, which determines the kernel launches.
#[derive(Clone, Copy)]
struct Pass {
    /// Rows of sequences with one new token.
    decode_rows: usize,
    /// Rows of the other sequences.
    prefill_rows: usize,
    /// Whether the attention kernel writes the new keys and values itself.
    append_in_attention: bool,
    has_images: bool,
    /// Number of rows with a logits request.
    output_rows: usize,
    /// Whether these rows are selected by index; otherwise they are all rows, in order.
    is_selection: bool,
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
            // In parallel, since copying on the host takes most of the time.
            layers: (0..text.layers)
                .into_par_iter()
                .map(|n| DecoderLayer::load(device, &layers.pp(n), text))
                .collect::<Result<_, _>>()?,
            layer_norm: norm::<T>(device, &model.pp("layer_norm"), width, text.layer_norm_eps)?,
            embedding_scale: if text.scale_embedding { (width as f32).sqrt() } else { 1.0 },
            positions: Positions::new(width, text.pad_token_id),
            sizes,
            codes: device.zeros(vocabulary)?,
            uploaded_codes: None,
            workspace: None,
        })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.sizes.vocabulary
    }

    /// Size of the keys and values of a slot of `length` tokens, in bytes.
    pub(super) fn slot_bytes(&self, length: usize) -> usize {
        self.sizes.layers * KeyValueCache::<S>::slot_bytes::<T>(length, self.sizes.heads, self.sizes.head_dim())
    }

    /// Number of slots, and tokens of each.
    pub(super) fn kv_capacity(&self) -> (usize, usize) {
        self.workspace.as_ref().map_or((0, 0), |workspace| (workspace.slots, workspace.length))
    }

    pub(super) fn reserve(&mut self, device: &Device, slots: usize, length: usize) -> Result<(), CudaError> {
        // Freed first, since the GPU may not have memory for the old and the new workspace.
        self.workspace = None;
        // A token's position is at most the number of its sequence's tokens plus one.
        let mut table = Vec::new();
        for position in 0..length + 2 {
            table.extend_from_slice(self.positions.row(position));
        }
        self.workspace = Some(Workspace::new(device, &self.sizes, slots, length, &table)?);
        Ok(())
    }

    /// Runs checked segments and returns an output for each request. Requested rows of logits are written to `logits`.
    pub(super) fn forward(
        &mut self,
        device: &Device,
        segments: &[Segment],
        requests: &[LogitsRequest],
        logits: &mut Vec<f32>,
    ) -> Result<Vec<RowOutput>, CudaError> {
        logits.clear();
        self.upload_codes(device, requests)?;
        let (row_requests, needs_logits): (Vec<RowRequest>, Vec<bool>) =
            requests.iter().map(|request| row_request(request, self.uploaded_codes.as_ref())).unzip();
        let Some(mut workspace) = self.workspace.take() else {
            return Ok(Vec::new());
        };
        // For each request, its row in `logits`.
        let mut next = 0;
        let row = |&needs_logits: &bool| {
            next += usize::from(needs_logits);
            needs_logits.then(|| next - 1)
        };
        let logits_rows: Vec<Option<usize>> = needs_logits.iter().map(row).collect();
        logits.resize(next * self.sizes.vocabulary, 0.0);
        let mut outputs: Vec<RowOutput> = logits_rows.iter().map(|row| RowOutput::Logits(row.unwrap_or(0))).collect();
        let plans = Plan::of_segments(segments, &row_requests, &self.positions, workspace.capacity);
        let result = plans
            .iter()
            .try_for_each(|plan| self.run(device, &mut workspace, plan, &logits_rows, logits, &mut outputs));
        self.workspace = Some(workspace);
        result.map(|()| outputs)
    }

    /// Uploads the token codes of the requests' grammar, unless they are uploaded already.
    fn upload_codes(&mut self, device: &Device, requests: &[LogitsRequest]) -> Result<(), CudaError> {
        let requested = requests.iter().find_map(|request| match request {
            LogitsRequest::Best { mask: Some(TokenMask { codes, .. }), .. } => Some(codes),
            _ => None,
        });
        let Some(codes) = requested.filter(|codes| codes.len() == self.sizes.vocabulary) else {
            return Ok(());
        };
        if !self.uploaded_codes.as_ref().is_some_and(|uploaded| Arc::ptr_eq(uploaded, codes)) {
            device.upload(codes, &self.codes)?;
            self.uploaded_codes = Some(Arc::clone(codes));
        }
        Ok(())
    }

    fn run(
        &self,
        device: &Device,
        workspace: &mut Workspace<T, S>,
        plan: &Plan,
        logits_rows: &[Option<usize>],
        logits: &mut [f32],
        outputs: &mut [RowOutput],
    ) -> Result<(), CudaError> {
        let recorded =
            recorded_batch(plan.rows.len()).filter(|&batch| batch <= workspace.capacity && plan.is_decode_only());
        match recorded {
            Some(batch) if batch <= workspace.logits_rows => {
                self.run_recorded(device, workspace, plan, batch)?;
                self.download_logits(device, workspace, plan, 0..plan.output_rows.len(), logits_rows, logits)?;
            }
            _ => self.run_any(device, workspace, plan, logits_rows, logits)?,
        }
        let mut words = vec![0u32; plan.requests.len() * 4];
        device.download(&workspace.choices, &mut words)?;
        let choices = RawChosen::read(&words);
        for ((raw, request), &index) in choices.iter().zip(&plan.requests).zip(&plan.request_indices) {
            if logits_rows[index].is_none() {
                outputs[index] = RowOutput::Chosen(chosen_token(raw, request));
            }
        }
        Ok(())
    }

    /// Runs a decode-only pass, padded to `batch` rows. The first time it is launched directly, which also loads its
    /// kernels, and then recorded; from then on the recording is replayed.
    fn run_recorded(
        &self,
        device: &Device,
        workspace: &mut Workspace<T, S>,
        plan: &Plan,
        batch: usize,
    ) -> Result<(), CudaError> {
        let padding = NewRow { token: 0, position: 0, slot: workspace.slots as u32, column: 0 };
        let unused = RowRequest { target: Some(0), set: RowRequest::EVERYTHING, upper_left: 0, patches: (0, 0) };
        let fill = batch - plan.rows.len();
        let rows: Vec<_> = plan.rows.iter().copied().chain(std::iter::repeat_n(padding, fill)).collect();
        let requests: Vec<_> = plan.requests.iter().copied().chain(std::iter::repeat_n(unused, fill)).collect();
        workspace.rows.set(device, &rows)?;
        workspace.requests.set(device, &requests)?;
        let pass = Pass {
            decode_rows: batch,
            prefill_rows: 0,
            append_in_attention: true,
            has_images: false,
            output_rows: batch,
            is_selection: false,
        };
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
        tracing::debug!(batch, seconds = started.elapsed().as_secs_f64(), "decoding step recorded");
        workspace.graphs.insert(batch, graph);
        Ok(())
    }

    /// Runs any pass by launching its kernels.
    fn run_any(
        &self,
        device: &Device,
        workspace: &mut Workspace<T, S>,
        plan: &Plan,
        logits_rows: &[Option<usize>],
        logits: &mut [f32],
    ) -> Result<(), CudaError> {
        workspace.rows.set(device, &plan.rows)?;
        workspace.requests.set(device, &plan.requests)?;
        workspace.picks.set(device, &plan.output_rows)?;
        workspace.tiles.set(device, &plan.tiles)?;
        workspace.copies.set(device, &plan.copies)?;
        let has_images = plan.has_images();
        if has_images {
            let rows: Vec<_> =
                plan.image_rows.iter().map(|row| row.as_ref().map(|(values, index)| (values, *index))).collect();
            workspace.pictures.set(device, &rows)?;
        }
        let pass = Pass {
            decode_rows: plan.decode_rows,
            prefill_rows: plan.rows.len() - plan.decode_rows,
            append_in_attention: false,
            has_images,
            output_rows: plan.output_rows.len(),
            is_selection: true,
        };
        self.launch(device, workspace, &pass)?;
        for first in (0..pass.output_rows).step_by(workspace.logits_rows) {
            let chunk = first..pass.output_rows.min(first + workspace.logits_rows);
            self.launch_head(device, workspace, &pass, chunk.clone())?;
            self.download_logits(device, workspace, plan, chunk, logits_rows, logits)?;
        }
        Ok(())
    }

    /// Downloads the requested rows of logits among the output rows `chunk`, whose logits are in the workspace.
    fn download_logits(
        &self,
        device: &Device,
        workspace: &Workspace<T, S>,
        plan: &Plan,
        chunk: std::ops::Range<usize>,
        logits_rows: &[Option<usize>],
        logits: &mut [f32],
    ) -> Result<(), CudaError> {
        let (vocabulary, stride) = (self.sizes.vocabulary, self.sizes.logits_stride());
        for (index, &request) in plan.request_indices[chunk].iter().enumerate() {
            if let Some(row) = logits_rows[request] {
                let from = workspace.logits.part(index * stride..index * stride + vocabulary);
                device.download(&from, &mut logits[row * vocabulary..][..vocabulary])?;
            }
        }
        Ok(())
    }

    /// Launches all layers.
    fn launch(&self, device: &Device, workspace: &Workspace<T, S>, pass: &Pass) -> Result<(), CudaError> {
        let rows = pass.decode_rows + pass.prefill_rows;
        let Workspace { x, y, normed, qkv, inner, .. } = workspace;
        let embedding = Embedding {
            table: &self.embed_tokens,
            image_rows: pass.has_images.then_some(&workspace.pictures),
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

    /// Launches the attention of a layer, from `qkv` to `normed`, including the norm of the attention heads.
    fn attend(
        &self,
        device: &Device,
        workspace: &Workspace<T, S>,
        layer: &DecoderLayer<T>,
        cache: &KeyValueCache<S>,
        pass: &Pass,
    ) -> Result<(), CudaError> {
        let Sizes { width, heads, .. } = self.sizes;
        let Workspace { qkv, normed, rows, .. } = workspace;
        let Pass { decode_rows, prefill_rows, append_in_attention, .. } = *pass;
        let tokens = NewTokens { qkv, bias: &layer.qkv.bias };
        if !append_in_attention {
            device.append(rows, decode_rows + prefill_rows, tokens, cache)?;
            device.copy_columns(&workspace.copies, cache)?;
        }
        if decode_rows > 0 {
            let splits = workspace.splits.of(self.sizes.splits(decode_rows));
            device.attend_newest(rows, decode_rows, tokens, cache, append_in_attention, &splits)?;
            device.merge_norm(&splits, decode_rows, heads, &layer.inner_attention_norm, normed)?;
        }
        if prefill_rows > 0 {
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
            let prefill = normed.part(decode_rows * width..normed.len());
            device.norm_rows(&prefill, prefill_rows, &layer.inner_attention_norm)?;
        }
        Ok(())
    }

    /// Launches the head for the output rows `chunk`, and the kernel that answers their requests.
    fn launch_head(
        &self,
        device: &Device,
        workspace: &Workspace<T, S>,
        pass: &Pass,
        chunk: std::ops::Range<usize>,
    ) -> Result<(), CudaError> {
        let Some(last) = self.layers.last() else { return Ok(()) };
        let count = chunk.len();
        let picks = workspace.picks.from(chunk.start);
        device.residual_norm(&Residual {
            x: &workspace.x,
            added: Some((&workspace.y, &last.fc2.bias)),
            row_indices: pass.is_selection.then_some(&picks),
            rows: count,
            norm: &self.layer_norm,
            to_unit_length: false,
            out: &workspace.normed,
        })?;
        let (head, stride) = (self.lm_head.as_ref().unwrap_or(&self.embed_tokens), self.sizes.logits_stride());
        device.product(head, &workspace.normed, count, &workspace.logits, stride)?;
        let choices = workspace.choices.part(chunk.start * 4..workspace.choices.len());
        device.select_tokens(
            &workspace.logits,
            count,
            stride,
            &workspace.requests.from(chunk.start),
            &self.codes,
            &choices,
        )
    }
}
