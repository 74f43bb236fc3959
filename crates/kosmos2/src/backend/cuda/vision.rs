//! The CLIP vision tower (Radford et al., 2021, <https://arxiv.org/abs/2103.00020>); weights `vision_model.model.*`.

use candle_core::Tensor;
use kernels::cuda::index_tables::{Tile, TileLimits, Tiles};
use kernels::cuda::{Attention, Buffer, Contexts, CudaError, Device, Format, Matrix, Norm, Residual, Staging};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::computed::Computed;
use super::layers::{Linear, matrix, norm, values, vector, wide};
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::VisionConfig;
use crate::processor::image::PixelValues;

/// Rows of patches are padded to a multiple of this many values, so that each is aligned for 16-byte loads.
const PATCH_ALIGNMENT: usize = 16;

/// Maps pictures to features: one row for the class token and one for each patch.
pub(super) struct VisionTower<T> {
    /// The patch convolution as a matrix `[hidden, padded]`. Its stride equals its size, so patches do not overlap.
    patch: Matrix<T>,
    class: Buffer<f32>,
    position: Buffer<f32>,
    pre_layer_norm: Norm,
    layers: Vec<Layer<T>>,
    post_layer_norm: Norm,
    image_size: usize,
    patch_size: usize,
    heads: usize,
    workspace: Option<Workspace<T>>,
}

/// Buffers for up to `pictures` pictures.
struct Workspace<T> {
    pictures: usize,
    /// The host fills one while the GPU may still read the other.
    staging: [Staging<T>; 2],
    pixels: Buffer<T>,
    patches: Buffer<T>,
    x: Buffer<f32>,
    y: Buffer<T>,
    normed: Buffer<T>,
    qkv: Buffer<T>,
    inner: Buffer<T>,
    tiles: Tiles,
}

struct Layer<T> {
    layer_norm1: Norm,
    qkv: Linear<T>,
    out: Linear<T>,
    layer_norm2: Norm,
    fc1: Linear<T>,
    fc2: Linear<T>,
}

impl<T: Computed> Layer<T> {
    fn load(device: &Device, weights: &Weights, config: &VisionConfig) -> Result<Self, CheckpointError> {
        let (width, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let attention = weights.pp("self_attn");
        Ok(Self {
            layer_norm1: norm::<T>(device, &weights.pp("layer_norm1"), width, eps)?,
            qkv: Linear::concatenated(device, &attention, &["q_proj", "k_proj", "v_proj"], width, width)?,
            out: Linear::load(device, &attention.pp("out_proj"), width, width)?,
            layer_norm2: norm::<T>(device, &weights.pp("layer_norm2"), width, eps)?,
            fc1: Linear::load(device, &weights.pp("mlp.fc1"), width, inner)?,
            fc2: Linear::load(device, &weights.pp("mlp.fc2"), inner, width)?,
        })
    }
}

impl<T: Computed> VisionTower<T> {
    pub(super) fn load(device: &Device, weights: &Weights, config: &VisionConfig) -> Result<Self, CheckpointError> {
        let (hidden, side, eps) = (config.hidden_size, config.patch_size, config.layer_norm_eps);
        let (embeddings, layers) = (weights.pp("embeddings"), weights.pp("encoder.layers"));
        let patch = embeddings.get([hidden, config.num_channels, side, side], "patch_embedding.weight")?;
        let position = embeddings.get([config.patches() + 1, hidden], "position_embedding.weight")?;
        Ok(Self {
            patch: padded_rows::<T>(device, &patch, hidden, config.num_channels * side * side)?,
            class: vector::<T>(device, &embeddings, hidden, "class_embedding")?,
            position: device.buffer(&wide(&values::<T>(&position)))?,
            // The checkpoint's spelling.
            pre_layer_norm: norm::<T>(device, &weights.pp("pre_layrnorm"), hidden, eps)?,
            layers: (0..config.num_hidden_layers)
                .into_par_iter()
                .map(|n| Layer::load(device, &layers.pp(n), config))
                .collect::<Result<_, _>>()?,
            post_layer_norm: norm::<T>(device, &weights.pp("post_layernorm"), hidden, eps)?,
            image_size: config.image_size,
            patch_size: side,
            heads: config.num_attention_heads,
            workspace: None,
        })
    }

    /// Maps pixels `[3, S, S]` of each picture to features `[pictures · (1 + patches), hidden]`. All rows, not only the
    /// class token's, go through the final layer norm and are normalized to unit length, as the language model expects.
    pub(super) fn forward(&mut self, device: &Device, pictures: &[&PixelValues]) -> Result<&Buffer<T>, CudaError> {
        let count = pictures.len();
        let mut workspace = match self.workspace.take() {
            Some(workspace) if workspace.pictures >= count => workspace,
            _ => self.allocate(device, count.next_power_of_two())?,
        };
        let (hidden, picture_rows) = (self.pre_layer_norm.width(), self.picture_rows());
        let (rows, padded) = (count * picture_rows, self.patch.inner());
        let pixels = 3 * self.image_size * self.image_size;
        workspace.staging.rotate_left(1);
        let staging = &mut workspace.staging[0];
        let staged = staging.values_mut()?.par_chunks_exact_mut(pixels);
        staged.zip(pictures.par_iter()).for_each(|(staged, picture)| {
            staged.iter_mut().zip(picture.as_slice()).for_each(|(to, &from)| *to = <T as Format>::from_f32(from));
        });
        staging.upload(device, count * pixels, &workspace.pixels)?;
        let tile = |picture: u32| {
            let (rows, first) = (picture_rows as u32, picture * picture_rows as u32);
            Tile::cover(first, rows, picture, rows, false, first)
        };
        workspace.tiles.set(device, &(0..count as u32).flat_map(tile).collect::<Vec<_>>())?;
        let Workspace { pixels, patches, x, y, normed, qkv, inner, tiles, .. } = &workspace;
        device.cut_patches(pixels, count, self.image_size, self.patch_size, padded, patches)?;
        device.product(&self.patch, patches, count * (picture_rows - 1), y, hidden)?;
        device.vision_rows(y, &self.class, &self.position, count, &self.pre_layer_norm, x)?;

        let mut added: Option<(&Buffer<T>, &Buffer<f32>)> = None;
        let residual = |added, norm, to_unit_length| Residual {
            x,
            added,
            row_indices: None,
            rows,
            norm,
            to_unit_length,
            out: normed,
        };
        for layer in &self.layers {
            device.residual_norm(&residual(added, &layer.layer_norm1, false))?;
            layer.qkv.apply(device, normed, rows, qkv)?;
            self.attend(device, layer, qkv, tiles, workspace.pictures, normed)?;
            layer.out.apply(device, normed, rows, y)?;
            device.residual_norm(&residual(Some((y, &layer.out.bias)), &layer.layer_norm2, false))?;
            layer.fc1.apply(device, normed, rows, inner)?;
            device.quick_gelu(inner, rows, &layer.fc1.bias)?;
            layer.fc2.apply(device, inner, rows, y)?;
            added = Some((y, &layer.fc2.bias));
        }
        device.residual_norm(&residual(added, &self.post_layer_norm, true))?;
        Ok(&self.workspace.insert(workspace).normed)
    }

    fn attend(
        &self,
        device: &Device,
        layer: &Layer<T>,
        qkv: &Buffer<T>,
        tiles: &Tiles,
        pictures: usize,
        out: &Buffer<T>,
    ) -> Result<(), CudaError> {
        let (hidden, picture_rows) = (self.pre_layer_norm.width(), self.picture_rows());
        let head_dim = hidden / self.heads;
        let contexts = Contexts {
            keys: &qkv.part(hidden..qkv.len()),
            values: &qkv.part(2 * hidden..qkv.len()),
            scales: None,
            context_stride: picture_rows * 3 * hidden,
            head_stride: head_dim,
            column_stride: 3 * hidden,
            contexts: pictures,
            columns: picture_rows,
        };
        let bias = &layer.qkv.bias;
        device.attend(&Attention {
            tiles,
            queries: qkv,
            query_stride: 3 * hidden,
            query_bias: Some(&bias.part(0..hidden)),
            value_bias: Some(&bias.part(2 * hidden..3 * hidden)),
            contexts: &contexts,
            heads: self.heads,
            head_dim,
            out,
        })
    }

    /// Number of feature rows of a picture.
    fn picture_rows(&self) -> usize {
        self.position.len() / self.pre_layer_norm.width()
    }

    fn allocate(&self, device: &Device, pictures: usize) -> Result<Workspace<T>, CudaError> {
        let (hidden, picture_rows) = (self.pre_layer_norm.width(), self.picture_rows());
        let rows = pictures * picture_rows;
        let inner = self.layers.first().map_or(0, |layer| layer.fc1.outputs());
        let limits = TileLimits { queries: rows, contexts: pictures, columns: picture_rows, out: rows };
        let pixels = pictures * 3 * self.image_size * self.image_size;
        Ok(Workspace {
            pictures,
            staging: [Staging::new(device, pixels)?, Staging::new(device, pixels)?],
            pixels: device.zeros(pixels)?,
            patches: device.zeros(pictures * (picture_rows - 1) * self.patch.inner())?,
            x: device.zeros(rows * hidden)?,
            y: device.zeros(rows * hidden)?,
            normed: device.zeros(rows * hidden)?,
            qkv: device.zeros(rows * 3 * hidden)?,
            inner: device.zeros(rows * inner)?,
            tiles: Tiles::new(device, pictures * picture_rows.div_ceil(Tile::MAX_ROWS), limits)?,
        })
    }
}

/// A matrix `[outer, inner]` with rows padded by zeros.
fn padded_rows<T: Computed>(
    device: &Device,
    tensor: &Tensor,
    outer: usize,
    inner: usize,
) -> Result<Matrix<T>, CudaError> {
    let padded = inner.next_multiple_of(PATCH_ALIGNMENT);
    let zero = <T as Format>::from_f32(0.0);
    let mut rows = vec![zero; outer * padded];
    for (row, values) in rows.chunks_exact_mut(padded).zip(values::<T>(tensor).chunks_exact(inner)) {
        row[..inner].copy_from_slice(values);
    }
    matrix(device, &rows, outer, padded)
}
