//! The CLIP vision tower (Radford et al., 2021, <https://arxiv.org/abs/2103.00020>); weights `vision_model.model.*`.

use kernels::cpu::{Attention, Context, Epilogue, PackedWeights, WeightFormat, l2_normalize, linear};

use super::layers::{Buffer, Linear, Norm, attend, vector, with_values};
use super::threads::{self, PassThreads};
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::VisionConfig;

/// Maps a picture to features: one row for the class token and one for each patch.
pub(super) struct VisionTower {
    /// The patch convolution as a matrix `[hidden, 3·patch·patch]`. Its stride equals its size, so patches do not
    /// overlap.
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

/// Buffers of a pass.
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
    qkv: Linear,
    out: Linear,
    layer_norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

impl Layer {
    fn load(weights: &Weights, config: &VisionConfig, format: WeightFormat) -> Result<Self, CheckpointError> {
        let (width, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let attention = weights.pp("self_attn");
        Ok(Self {
            layer_norm1: Norm::load(&weights.pp("layer_norm1"), width, eps)?,
            qkv: Linear::concatenated(&attention, &["q_proj", "k_proj", "v_proj"], width, width, format)?,
            out: Linear::load(&attention.pp("out_proj"), width, width, format)?,
            layer_norm2: Norm::load(&weights.pp("layer_norm2"), width, eps)?,
            fc1: Linear::load(&weights.pp("mlp.fc1"), width, inner, format)?,
            fc2: Linear::load(&weights.pp("mlp.fc2"), inner, width, format)?,
        })
    }

    fn bytes(&self) -> usize {
        [&self.qkv, &self.out, &self.fc1, &self.fc2].map(Linear::bytes).iter().sum()
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
            // The checkpoint's spelling.
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

    /// Whether each thread may take a whole picture through all layers.
    pub(super) fn is_small(&self) -> bool {
        threads::is_small(self.layer_bytes())
    }

    fn layer_bytes(&self) -> usize {
        self.layers.first().map_or(0, Layer::bytes)
    }

    /// Maps pixels `[3, S, S]` to features `[1 + patches, hidden]`. All rows, not only the class token's, go through
    /// the final layer norm and are normalized to unit length, as the language model expects.
    pub(super) fn forward<'b>(&self, pixels: &[f32], buffers: &'b mut Buffers, threads: &mut PassThreads) -> &'b [f32] {
        let (hidden, heads) = (self.hidden, self.heads);
        let rows = self.position.len() / hidden;
        let Buffers { patches, x, normed, qkv, inner } = buffers;
        let patches = patches.take((rows - 1) * self.patch.inputs());
        cut_into_patches(pixels, self.image_size, self.patch_size, patches);
        let (x, normed) = (x.take(rows * hidden), normed.take(rows * hidden));
        let qkv = qkv.take(rows * 3 * hidden);
        linear(patches, &self.patch, None, Epilogue::Store, &mut normed[hidden..], threads.shared_scratch());
        normed[..hidden].copy_from_slice(&self.class);
        normed.iter_mut().zip(&self.position).for_each(|(value, position)| *value += position);
        self.pre_layer_norm.apply(normed, x);
        let part_rows = threads.rows_per_part(rows, self.layer_bytes());
        let block = threads::block_rows(part_rows, self.layer_bytes());
        for layer in &self.layers {
            let width = layer.fc1.outputs();
            let inner = inner.take(rows * width);
            let parts = x.chunks(part_rows * hidden).zip(normed.chunks_mut(part_rows * hidden));
            threads.share(parts.zip(qkv.chunks_mut(part_rows * 3 * hidden)), |((x, normed), qkv), scratch| {
                let blocks = x.chunks(block * hidden).zip(normed.chunks_mut(block * hidden));
                for ((x, normed), qkv) in blocks.zip(qkv.chunks_mut(block * 3 * hidden)) {
                    layer.layer_norm1.apply(x, normed);
                    layer.qkv.apply(normed, Epilogue::Store, qkv, scratch);
                }
            });
            let parts = x.chunks_mut(part_rows * hidden).zip(normed.chunks_mut(part_rows * hidden));
            let parts = parts.zip(inner.chunks_mut(part_rows * width)).zip(qkv.chunks(part_rows * 3 * hidden));
            threads.share(parts, |(((x, normed), inner), queries), scratch| {
                let attention = Attention {
                    queries,
                    query_stride: 3 * hidden,
                    context: Context::Rows { keys: &qkv[hidden..], values: &qkv[2 * hidden..], stride: 3 * hidden },
                    key_count: rows,
                    causal_offset: None,
                    out: normed,
                };
                attend(attention, heads, hidden / heads, self.format, scratch);
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

/// Pixels `[3, S, S]` to rows `[patches, 3·p·p]`: patches row by row, the values of a patch by plane, row and column.
fn cut_into_patches(pixels: &[f32], size: usize, patch: usize, out: &mut [f32]) {
    match patch {
        // The compiler inlines copies of a known length.
        14 => cut::<14>(pixels, size, patch, out),
        _ => cut::<0>(pixels, size, patch, out),
    }
}

/// `SIDE` is the patch size if it is known at compile time, else 0.
fn cut<const SIDE: usize>(pixels: &[f32], size: usize, patch: usize, out: &mut [f32]) {
    let patch = if SIDE > 0 { SIDE } else { patch };
    let across = size / patch;
    for (index, row) in out.chunks_exact_mut(3 * patch * patch).enumerate() {
        let (top, left) = (index / across * patch, index % across * patch);
        for (line, values) in row.chunks_exact_mut(patch).enumerate() {
            let (plane, y) = (line / patch, top + line % patch);
            values.copy_from_slice(&pixels[(plane * size + y) * size + left..][..patch]);
        }
    }
}
