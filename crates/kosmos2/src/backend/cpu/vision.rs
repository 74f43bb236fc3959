//! The CLIP vision tower (Radford et al., 2021, <https://arxiv.org/abs/2103.00020>); names `vision_model.model.*`.

use kernels::cpu::{Attention, Context, Epilogue, PackedWeights, WeightFormat, l2_normalize, linear};

use super::layers::{Buffer, Map, Norm, attend, vector, with_values};
use super::threads::{self, PerThread};
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::VisionConfig;

/// A picture to features: one row for the class token and one for each patch.
pub(super) struct VisionTower {
    /// The patch convolution as a matrix [hidden, 3·patch·patch]: its stride is its size, so patches never overlap.
    patch: PackedWeights,
    class: Vec<f32>,
    position: Vec<f32>,
    pre_layer_norm: Norm,
    layers: Vec<Layer>,
    post_layer_norm: Norm,
    image_size: usize,
    patch_size: usize,
    hidden: usize,
    heads: usize,
    format: WeightFormat,
}

/// What a pass needs beside the weights.
#[derive(Default)]
pub(super) struct Buffers {
    patches: Buffer,
    x: Buffer,
    normed: Buffer,
    qkv: Buffer,
    inner: Buffer,
}

struct Layer {
    layer_norm1: Norm,
    qkv: Map,
    out: Map,
    layer_norm2: Norm,
    fc1: Map,
    fc2: Map,
}

impl Layer {
    fn load(weights: &Weights, config: &VisionConfig, format: WeightFormat) -> Result<Self, CheckpointError> {
        let (width, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let attention = weights.pp("self_attn");
        Ok(Self {
            layer_norm1: Norm::load(&weights.pp("layer_norm1"), width, eps)?,
            qkv: Map::concatenated(&attention, &["q_proj", "k_proj", "v_proj"], width, width, format)?,
            out: Map::load(&attention.pp("out_proj"), width, width, format)?,
            layer_norm2: Norm::load(&weights.pp("layer_norm2"), width, eps)?,
            fc1: Map::load(&weights.pp("mlp.fc1"), width, inner, format)?,
            fc2: Map::load(&weights.pp("mlp.fc2"), inner, width, format)?,
        })
    }

    fn bytes(&self) -> usize {
        [&self.qkv, &self.out, &self.fc1, &self.fc2].map(Map::bytes).iter().sum()
    }
}

impl VisionTower {
    pub(super) fn load(
        weights: &Weights,
        config: &VisionConfig,
        format: WeightFormat,
    ) -> Result<Self, CheckpointError> {
        let (hidden, side, eps) = (config.hidden_size, config.patch_size, config.layer_norm_eps);
        let (embeddings, layers) = (weights.pp("embeddings"), weights.pp("encoder.layers"));
        let inputs = config.num_channels * side * side;
        let patch = embeddings.get([hidden, config.num_channels, side, side], "patch_embedding.weight")?;
        let position = embeddings.get([config.patches() + 1, hidden], "position_embedding.weight")?;
        Ok(Self {
            patch: with_values(&patch, |rows| PackedWeights::pack(rows, hidden, inputs, format)),
            class: vector(&embeddings, hidden, "class_embedding")?,
            position: with_values(&position, <[f32]>::to_vec),
            // The checkpoint's own spelling.
            pre_layer_norm: Norm::load(&weights.pp("pre_layrnorm"), hidden, eps)?,
            layers: (0..config.num_hidden_layers)
                .map(|n| Layer::load(&layers.pp(n), config, format))
                .collect::<Result<_, _>>()?,
            post_layer_norm: Norm::load(&weights.pp("post_layernorm"), hidden, eps)?,
            image_size: config.image_size,
            patch_size: side,
            hidden,
            heads: config.num_attention_heads,
            format,
        })
    }

    /// Whether each thread may take a picture of its own through all layers.
    pub(super) fn is_small(&self) -> bool {
        threads::is_small(self.layer_bytes())
    }

    fn layer_bytes(&self) -> usize {
        self.layers.first().map_or(0, Layer::bytes)
    }

    /// Pixels [3, S, S] to features [1 + patches, hidden]: normalised by the post layer norm and then to unit length,
    /// all rows and not only the class token's, as the language model takes them.
    pub(super) fn forward<'b>(&self, pixels: &[f32], buffers: &'b mut Buffers, threads: &mut PerThread) -> &'b [f32] {
        let (hidden, heads) = (self.hidden, self.heads);
        let rows = self.position.len() / hidden;
        let Buffers { patches, x, normed, qkv, inner } = buffers;
        let patches = patches.take((rows - 1) * self.patch.inputs());
        cut_into_patches(pixels, self.image_size, self.patch_size, patches);
        let (x, normed) = (x.take(rows * hidden), normed.take(rows * hidden));
        let qkv = qkv.take(rows * 3 * hidden);
        linear(patches, &self.patch, None, Epilogue::Store, &mut normed[hidden..], threads.together());
        normed[..hidden].copy_from_slice(&self.class);
        normed.iter_mut().zip(&self.position).for_each(|(value, position)| *value += position);
        self.pre_layer_norm.apply(normed, x);
        let each = threads.rows_each(rows, self.layer_bytes());
        let block = threads::block_of(each, self.layer_bytes());
        for layer in &self.layers {
            let width = layer.fc1.outputs();
            let inner = inner.take(rows * width);
            let parts = x.chunks(each * hidden).zip(normed.chunks_mut(each * hidden));
            threads.share(parts.zip(qkv.chunks_mut(each * 3 * hidden)), |((x, normed), qkv), scratch| {
                let blocks = x.chunks(block * hidden).zip(normed.chunks_mut(block * hidden));
                for ((x, normed), qkv) in blocks.zip(qkv.chunks_mut(block * 3 * hidden)) {
                    layer.layer_norm1.apply(x, normed);
                    layer.qkv.apply(normed, Epilogue::Store, qkv, scratch);
                }
            });
            let parts = x.chunks_mut(each * hidden).zip(normed.chunks_mut(each * hidden));
            let parts = parts.zip(inner.chunks_mut(each * width)).zip(qkv.chunks(each * 3 * hidden));
            threads.share(parts, |(((x, normed), inner), queries), scratch| {
                let some_rows = Attention {
                    queries,
                    query_stride: 3 * hidden,
                    context: Context::Rows { keys: &qkv[hidden..], values: &qkv[2 * hidden..], stride: 3 * hidden },
                    key_count: rows,
                    causal_offset: None,
                    out: normed,
                };
                attend(some_rows, heads, hidden / heads, self.format, scratch);
                for (x, normed) in x.chunks_mut(block * hidden).zip(normed.chunks_mut(block * hidden)) {
                    let inner = &mut inner[..x.len() / hidden * width];
                    layer.out.apply(normed, Epilogue::Add, x, scratch);
                    layer.layer_norm2.apply(x, normed);
                    layer.fc1.apply(normed, Epilogue::QuickGelu, inner, scratch);
                    layer.fc2.apply(inner, Epilogue::Add, x, scratch);
                }
            });
        }
        self.post_layer_norm.apply_in_place(x);
        l2_normalize(x, hidden);
        x
    }
}

/// Pixels [3, S, S] to rows [patches, 3·p·p], patches row by row, values of a patch by plane, row and column.
fn cut_into_patches(pixels: &[f32], size: usize, patch: usize, out: &mut [f32]) {
    match patch {
        // A line of known length is copied without a call.
        14 => cut::<14>(pixels, size, patch, out),
        _ => cut::<0>(pixels, size, patch, out),
    }
}

/// Of patches of `KNOWN` pixels a side, or of any where that is 0.
fn cut<const KNOWN: usize>(pixels: &[f32], size: usize, patch: usize, out: &mut [f32]) {
    let patch = if KNOWN > 0 { KNOWN } else { patch };
    let across = size / patch;
    for (index, row) in out.chunks_exact_mut(3 * patch * patch).enumerate() {
        let (top, left) = (index / across * patch, index % across * patch);
        for (line, values) in row.chunks_exact_mut(patch).enumerate() {
            let (plane, y) = (line / patch, top + line % patch);
            values.copy_from_slice(&pixels[(plane * size + y) * size + left..][..patch]);
        }
    }
}
