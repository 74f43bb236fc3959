//! From vision features to the decoder's image embeddings: latent queries attend over the features and themselves,
//! not causally (see [`crate::backend::candle`]); names `image_to_text_projection.*`.
//!
//! The latent queries are the same for every picture, so their own queries, keys and values are computed once.

use kernels::cpu::{Attention, Context, Epilogue, Scratch, WeightFormat, attention};

use super::crew::Crew;
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
}

/// What a pass needs beside the weights.
#[derive(Default)]
pub(super) struct Buffers {
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
        })
    }

    /// Features [1 + patches, hidden] of one picture to its embedding [latent, width].
    pub(super) fn forward(&self, features: &[f32], buffers: &mut Buffers, crew: &mut Crew) -> ImageEmbedding {
        let Buffers { h, key_values, mixed } = buffers;
        let (width, hidden, embedding_len) = (self.width, self.dense.inputs(), self.queries.len());
        let rows = features.len() / hidden;
        let h = h.take(rows * width);
        let own = rows * 2 * width;
        let key_values = key_values.take(own + self.latent_key_values.len());
        let bytes = self.dense.bytes() + self.key_value.bytes();
        let each = crew.rows_each(rows, bytes);
        let parts = features.chunks(each * hidden).zip(h.chunks_mut(each * width));
        let parts = parts.zip(key_values[..own].chunks_mut(each * 2 * width));
        crew.share(parts, |((features, h), key_values), scratch| {
            self.dense.apply(features, Epilogue::Store, h, scratch);
            self.key_value.apply(h, Epilogue::Store, key_values, scratch);
        });
        key_values[own..].copy_from_slice(&self.latent_key_values);
        let key_values = &*key_values;
        let mixed = mixed.take(embedding_len);
        let mut embedding = vec![0.0; embedding_len];
        let each = crew.rows_each(embedding_len / width, bytes) * width;
        let parts = self.queries.chunks(each).zip(mixed.chunks_mut(each)).zip(embedding.chunks_mut(each));
        crew.share(parts, |((queries, mixed), embedding), scratch| {
            let mut some_queries = [Attention {
                queries,
                query_stride: width,
                context: Context::Rows { keys: key_values, values: &key_values[width..], stride: 2 * width },
                key_count: key_values.len() / (2 * width),
                causal_offset: None,
                out: mixed,
            }];
            attention(&mut some_queries, self.heads, width / self.heads, scratch);
            self.out.apply(mixed, Epilogue::Store, embedding, scratch);
        });
        ImageEmbedding::new(embedding, width)
    }
}
