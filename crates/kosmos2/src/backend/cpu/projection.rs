//! From vision features to the decoder's image embeddings: latent queries attend over the features and themselves,
//! not causally (see [`crate::backend::candle`]); names `image_to_text_projection.*`.
//!
//! The latent queries are the same for every picture, so their own queries, keys and values are computed once. Nothing
//! stands between the map of the features to the decoder's width and those to keys and values: they are made one.

use kernels::cpu::{Attention, Context, Epilogue, PackedWeights, Scratch, WeightFormat, linear};

use super::layers::{Buffer, Map, attend, concatenated_matrix, vector, with_values};
use super::threads::PerThread;
use crate::backend::ImageEmbedding;
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::Config;

pub(super) struct ImageToTextProjection {
    /// From features.
    key_value: Map,
    out: Map,
    /// [latent, width].
    queries: Vec<f32>,
    /// [latent, 2·width]: keys and values side by side.
    latent_key_values: Vec<f32>,
    width: usize,
    heads: usize,
    format: WeightFormat,
}

/// What a pass needs beside the weights.
#[derive(Default)]
pub(super) struct Buffers {
    key_values: Buffer,
    mixed: Buffer,
}

impl ImageToTextProjection {
    pub(super) fn load(weights: &Weights, config: &Config, format: WeightFormat) -> Result<Self, CheckpointError> {
        let (width, latent) = (config.text_config.embed_dim, config.latent_query_num);
        let attention = weights.pp("x_attn");
        let query = Map::load(&attention.pp("q_proj"), width, width, format)?;
        let (matrix, bias) = concatenated_matrix(&attention, &["k_proj", "v_proj"], width, width)?;
        let latent_key_value = Map::new(&matrix, bias.clone(), width, format);
        let key_value = behind_dense(&weights.pp("dense"), config.vision_config.hidden_size, &matrix, bias, format)?;
        let (mut queries, mut latent_key_values) = (vec![0.0; latent * width], vec![0.0; latent * 2 * width]);
        with_values(&weights.get([latent, width], "latent_query")?, |latent_query| {
            let mut scratch = Scratch::default();
            query.apply(latent_query, Epilogue::Store, &mut queries, &mut scratch);
            latent_key_value.apply(latent_query, Epilogue::Store, &mut latent_key_values, &mut scratch);
        });
        Ok(Self {
            key_value,
            out: Map::load(&attention.pp("out_proj"), width, width, format)?,
            queries,
            latent_key_values,
            width,
            heads: config.text_config.attention_heads,
            format,
        })
    }

    /// Features [1 + patches, hidden] of one picture to its embedding [latent, width].
    pub(super) fn forward(&self, features: &[f32], buffers: &mut Buffers, threads: &mut PerThread) -> ImageEmbedding {
        let Buffers { key_values, mixed } = buffers;
        let (width, hidden, embedding_len) = (self.width, self.key_value.inputs(), self.queries.len());
        let rows = features.len() / hidden;
        let own = rows * 2 * width;
        let key_values = key_values.take(own + self.latent_key_values.len());
        let bytes = self.key_value.bytes();
        let each = threads.rows_each(rows, bytes);
        let parts = features.chunks(each * hidden).zip(key_values[..own].chunks_mut(each * 2 * width));
        threads.share(parts, |(features, key_values), scratch| {
            self.key_value.apply(features, Epilogue::Store, key_values, scratch);
        });
        key_values[own..].copy_from_slice(&self.latent_key_values);
        let key_values = &*key_values;
        let mixed = mixed.take(embedding_len);
        let mut embedding = vec![0.0; embedding_len];
        let each = threads.rows_each(embedding_len / width, bytes) * width;
        let parts = self.queries.chunks(each).zip(mixed.chunks_mut(each)).zip(embedding.chunks_mut(each));
        threads.share(parts, |((queries, mixed), embedding), scratch| {
            let some_queries = Attention {
                queries,
                query_stride: width,
                context: Context::Rows { keys: key_values, values: &key_values[width..], stride: 2 * width },
                key_count: key_values.len() / (2 * width),
                causal_offset: None,
                out: mixed,
            };
            attend(some_queries, self.heads, width / self.heads, self.format, scratch);
            self.out.apply(mixed, Epilogue::Store, embedding, scratch);
        });
        ImageEmbedding::new(embedding, width)
    }
}

/// The map of `matrix` [outer, width] and `bias` behind the map `dense` from `hidden` features to `width` values.
fn behind_dense(
    dense: &Weights,
    hidden: usize,
    matrix: &[f32],
    bias: Vec<f32>,
    format: WeightFormat,
) -> Result<Map, CheckpointError> {
    let (outer, width) = (bias.len(), matrix.len() / bias.len());
    // Turned, with the bias as one more column of the map.
    let mut turned = vec![0.0; (hidden + 1) * width];
    with_values(&dense.get([width, hidden], "weight")?, |values| {
        for (index, row) in values.chunks_exact(hidden).enumerate() {
            turned[index..].iter_mut().step_by(width).zip(row).for_each(|(to, &value)| *to = value);
        }
    });
    turned[hidden * width..].copy_from_slice(&vector(dense, width, "bias")?);
    let mut joined = vec![0.0; outer * (hidden + 1)];
    let turned = PackedWeights::pack(&turned, hidden + 1, width, WeightFormat::F32);
    linear(matrix, &turned, None, Epilogue::Store, &mut joined, &mut Scratch::new());
    let (rows, shifts) = (joined.chunks_exact(hidden + 1), joined.iter().skip(hidden).step_by(hidden + 1));
    let bias = bias.iter().zip(shifts).map(|(bias, shift)| bias + shift).collect();
    Ok(Map::new(&rows.flat_map(|row| &row[..hidden]).copied().collect::<Vec<_>>(), bias, hidden, format))
}
