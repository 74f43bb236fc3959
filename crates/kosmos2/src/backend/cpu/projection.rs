//! From vision features to the decoder's image embeddings: latent queries attend over the features and themselves,
//! not causally (see [`crate::backend::candle`]); names `image_to_text_projection.*`.
//!
//! The latent queries are the same for every picture, so their own queries, keys and values are computed once.

use kernels::cpu::{Attention, Epilogue, Scratch, WeightFormat, attention};

use super::layers::{Buffer, Map, with_values};
use crate::backend::ImageEmbedding;
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::Config;

pub(super) struct ImageToTextProjection {
    dense: Map,
    key_value: Map,
    out: Map,
    /// [latent, width].
    queries: Vec<f32>,
    /// [latent, 2·width]: keys and values side by side.
    latent_key_values: Vec<f32>,
    width: usize,
    heads: usize,
    h: Buffer,
    key_values: Buffer,
    mixed: Buffer,
}

impl ImageToTextProjection {
    pub(super) fn load(weights: &Weights, config: &Config, format: WeightFormat) -> Result<Self, CheckpointError> {
        let (width, latent) = (config.text_config.embed_dim, config.latent_query_num);
        let attention = weights.pp("x_attn");
        let query = Map::load(&attention.pp("q_proj"), width, width, format)?;
        let key_value = Map::side_by_side(&attention, &["k_proj", "v_proj"], width, width, format)?;
        let (mut queries, mut latent_key_values) = (vec![0.0; latent * width], vec![0.0; latent * 2 * width]);
        with_values(&weights.get([latent, width], "latent_query")?, |latent_query| {
            let mut scratch = Scratch::default();
            query.apply(latent_query, Epilogue::Store, &mut queries, &mut scratch);
            key_value.apply(latent_query, Epilogue::Store, &mut latent_key_values, &mut scratch);
        });
        Ok(Self {
            dense: Map::load(&weights.pp("dense"), config.vision_config.hidden_size, width, format)?,
            key_value,
            out: Map::load(&attention.pp("out_proj"), width, width, format)?,
            queries,
            latent_key_values,
            width,
            heads: config.text_config.attention_heads,
            h: Buffer::default(),
            key_values: Buffer::default(),
            mixed: Buffer::default(),
        })
    }

    /// Features [1 + patches, hidden] of one picture to its embedding [latent, width].
    pub(super) fn forward(&mut self, features: &[f32], scratch: &mut Scratch) -> ImageEmbedding {
        let (width, embedding_len) = (self.width, self.queries.len());
        let rows = features.len() / self.dense.inputs();
        let h = self.h.take(rows * width);
        self.dense.apply(features, Epilogue::Store, h, scratch);
        let own = rows * 2 * width;
        let key_values = self.key_values.take(own + self.latent_key_values.len());
        self.key_value.apply(h, Epilogue::Store, &mut key_values[..own], scratch);
        key_values[own..].copy_from_slice(&self.latent_key_values);
        let mixed = self.mixed.take(embedding_len);
        let mut picture = [Attention {
            queries: &self.queries,
            query_stride: width,
            keys: key_values,
            values: &key_values[width..],
            key_stride: 2 * width,
            key_count: key_values.len() / (2 * width),
            causal_offset: None,
            out: mixed,
        }];
        attention(&mut picture, self.heads, width / self.heads, scratch);
        let mut embedding = vec![0.0; embedding_len];
        self.out.apply(mixed, Epilogue::Store, &mut embedding, scratch);
        ImageEmbedding::new(embedding, width)
    }
}
