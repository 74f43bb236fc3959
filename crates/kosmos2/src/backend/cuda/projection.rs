//! From vision features to image embeddings: latent queries attend to the features and to themselves, without a causal
//! mask (see the candle backend's projection for why). Weights: `image_to_text_projection.*`.
//!
//! The latent queries are the same for every picture, so their queries are computed once.

use kernels::cuda::index_tables::{Tile, TileLimits, Tiles};
use kernels::cuda::{Attention, Buffer, Contexts, CudaError, Device, Format};

use super::computed::Computed;
use super::layers::{Linear, values};
use crate::backend::embedding::ImageEmbedding;
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::Config;

pub(super) struct ImageToTextProjection<T> {
    dense: Linear<T>,
    key_value: Linear<T>,
    out: Linear<T>,
    /// The latent queries, `[latent, width]`.
    latent: Buffer<T>,
    /// Their attention queries with bias, `[latent, width]`.
    queries: Buffer<T>,
    /// Number of feature rows of a picture.
    features: usize,
    width: usize,
    heads: usize,
    workspace: Option<Workspace<T>>,
}

/// Buffers for up to `pictures` pictures.
struct Workspace<T> {
    pictures: usize,
    h: Buffer<T>,
    context: Buffer<T>,
    key_values: Buffer<T>,
    attended: Buffer<T>,
    tiles: Tiles,
}

impl<T: Computed> ImageToTextProjection<T> {
    pub(super) fn load(device: &Device, weights: &Weights, config: &Config) -> Result<Self, CheckpointError> {
        let (width, latents) = (config.text_config.embed_dim, config.latent_query_num);
        let attention = weights.pp("x_attn");
        let latent = device.buffer(&values::<T>(&weights.get([latents, width], "latent_query")?))?;
        let query = Linear::<T>::load(device, &attention.pp("q_proj"), width, width)?;
        let wide = device.zeros::<f32>(latents * width)?;
        query.apply(device, &latent, latents, &wide)?;
        device.add_bias(&wide, latents, &query.bias)?;
        let queries: Vec<T> = device.values(&wide)?.into_iter().map(<T as Format>::from_f32).collect();
        Ok(Self {
            dense: Linear::load(device, &weights.pp("dense"), config.vision_config.hidden_size, width)?,
            key_value: Linear::concatenated(device, &attention, &["k_proj", "v_proj"], width, width)?,
            out: Linear::load(device, &attention.pp("out_proj"), width, width)?,
            latent,
            queries: device.buffer(&queries)?,
            features: config.vision_config.patches() + 1,
            width,
            heads: config.text_config.attention_heads,
            workspace: None,
        })
    }

    /// Features `[pictures · (1 + patches), hidden]` to an embedding `[latent, width]` for each picture.
    pub(super) fn forward(
        &mut self,
        device: &Device,
        features: &Buffer<T>,
        pictures: usize,
    ) -> Result<Vec<ImageEmbedding>, CudaError> {
        let mut workspace = match self.workspace.take() {
            Some(workspace) if workspace.pictures >= pictures => workspace,
            _ => self.allocate(device, pictures.next_power_of_two())?,
        };
        let (width, latents, columns) = (self.width, self.latents(), self.columns());
        let tile =
            |picture: u32| Tile::cover(0, latents as u32, picture, columns as u32, false, picture * latents as u32);
        workspace.tiles.set(device, &(0..pictures as u32).flat_map(tile).collect::<Vec<_>>())?;
        let Workspace { h, context, key_values, attended, tiles, .. } = &workspace;
        self.dense.apply(device, features, pictures * self.features, h)?;
        device.with_latent(h, &self.dense.bias, &self.latent, pictures, self.features, context)?;
        self.key_value.apply(device, context, pictures * columns, key_values)?;
        let head_dim = width / self.heads;
        let contexts = Contexts {
            keys: key_values,
            values: &key_values.part(width..key_values.len()),
            scales: None,
            context_stride: columns * 2 * width,
            head_stride: head_dim,
            column_stride: 2 * width,
            contexts: workspace.pictures,
            columns,
        };
        device.attend(&Attention {
            tiles,
            queries: &self.queries,
            query_stride: width,
            query_bias: None,
            value_bias: Some(&self.key_value.bias.part(width..2 * width)),
            contexts: &contexts,
            heads: self.heads,
            head_dim,
            out: attended,
        })?;
        // Shared memory of the batch's embeddings, freed with the last of them.
        let embeddings = device.zeros::<f32>(pictures * latents * width)?;
        self.out.apply(device, attended, pictures * latents, &embeddings)?;
        device.add_bias(&embeddings, pictures * latents, &self.out.bias)?;
        self.workspace = Some(workspace);
        let len = latents * width;
        Ok((0..pictures).map(|n| ImageEmbedding::on_cuda(embeddings.part(n * len..(n + 1) * len), width)).collect())
    }

    fn latents(&self) -> usize {
        self.latent.len() / self.width
    }

    /// Number of keys that the latent queries attend to: the features and the latent queries.
    fn columns(&self) -> usize {
        self.features + self.latents()
    }

    fn allocate(&self, device: &Device, pictures: usize) -> Result<Workspace<T>, CudaError> {
        let (width, latents, columns) = (self.width, self.latents(), self.columns());
        let limits = TileLimits { queries: latents, contexts: pictures, columns, out: pictures * latents };
        Ok(Workspace {
            pictures,
            h: device.zeros(pictures * self.features * width)?,
            context: device.zeros(pictures * columns * width)?,
            key_values: device.zeros(pictures * columns * 2 * width)?,
            attended: device.zeros(pictures * latents * width)?,
            tiles: Tiles::new(device, pictures * latents.div_ceil(Tile::MAX_ROWS), limits)?,
        })
    }
}
