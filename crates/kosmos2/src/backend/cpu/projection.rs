//! From vision features to image embeddings: latent queries attend to the features and to themselves, without a causal
//! mask (see the candle backend's projection for why). Weights: `image_to_text_projection.*`.
//!
//! The latent queries are the same for every picture, so their queries, keys and values are computed once. No
//! nonlinearity lies between the `dense` map of the features and the maps to keys and values, so they are merged into
//! one.

use kernels::cpu::{Attention, Context, Epilogue, PackedWeights, Scratch, WeightFormat, linear};

use super::layers::{Buffer, Linear, attend, concatenated_matrix, vector, with_values};
use super::threads::PassThreads;
use crate::backend::embedding::ImageEmbedding;
use crate::checkpoint::{CheckpointError, Weights};
use crate::config::Config;

pub(super) struct ImageToTextProjection {
    /// From the features to keys and values.
    key_value: Linear,
    out: Linear,
    /// `[latent, width]`
    queries: Vec<f32>,
    /// `[latent, 2·width]`: keys, then values.
    latent_key_values: Vec<f32>,
    width: usize,
    heads: usize,
    format: WeightFormat,
}

/// Buffers of a pass.
#[derive(Default)]
pub(super) struct Buffers {
    key_values: Buffer,
    attended: Buffer,
}

impl ImageToTextProjection {
    pub(super) fn load(weights: &Weights, config: &Config, format: WeightFormat) -> Result<Self, CheckpointError> {
        let (width, latent) = (config.text_config.embed_dim, config.latent_query_num);
        let attention = weights.pp("x_attn");
        let query = Linear::load(&attention.pp("q_proj"), width, width, format)?;
        let (matrix, bias) = concatenated_matrix(&attention, &["k_proj", "v_proj"], width, width)?;
        let latent_key_value = Linear::new(&matrix, bias.clone(), width, format);
        let key_value =
            merged_with_dense(&weights.pp("dense"), config.vision_config.hidden_size, &matrix, bias, format)?;
        let (mut queries, mut latent_key_values) = (vec![0.0; latent * width], vec![0.0; latent * 2 * width]);
        with_values(&weights.get([latent, width], "latent_query")?, |latent_query| {
            let mut scratch = Scratch::default();
            query.apply(latent_query, Epilogue::Store, &mut queries, &mut scratch);
            latent_key_value.apply(latent_query, Epilogue::Store, &mut latent_key_values, &mut scratch);
        });
        Ok(Self {
            key_value,
            out: Linear::load(&attention.pp("out_proj"), width, width, format)?,
            queries,
            latent_key_values,
            width,
            heads: config.text_config.attention_heads,
            format,
        })
    }

    /// Features `[1 + patches, hidden]` of one picture to its embedding `[latent, width]`.
    pub(super) fn forward(&self, features: &[f32], buffers: &mut Buffers, threads: &mut PassThreads) -> ImageEmbedding {
        let Buffers { key_values, attended } = buffers;
        let (width, hidden, embedding_len) = (self.width, self.key_value.inputs(), self.queries.len());
        let rows = features.len() / hidden;
        let feature_values = rows * 2 * width;
        let key_values = key_values.take(feature_values + self.latent_key_values.len());
        let bytes = self.key_value.bytes();
        let part_rows = threads.rows_per_part(rows, bytes);
        let parts =
            features.chunks(part_rows * hidden).zip(key_values[..feature_values].chunks_mut(part_rows * 2 * width));
        threads.share(parts, |(features, key_values), scratch| {
            self.key_value.apply(features, Epilogue::Store, key_values, scratch);
        });
        key_values[feature_values..].copy_from_slice(&self.latent_key_values);
        let key_values = &*key_values;
        let attended = attended.take(embedding_len);
        let mut embedding = vec![0.0; embedding_len];
        let part_values = threads.rows_per_part(embedding_len / width, bytes) * width;
        let parts = self
            .queries
            .chunks(part_values)
            .zip(attended.chunks_mut(part_values))
            .zip(embedding.chunks_mut(part_values));
        threads.share(parts, |((queries, attended), embedding), scratch| {
            let attention = Attention {
                queries,
                query_stride: width,
                context: Context::Rows { keys: key_values, values: &key_values[width..], stride: 2 * width },
                key_count: key_values.len() / (2 * width),
                causal_offset: None,
                out: attended,
            };
            attend(attention, self.heads, width / self.heads, self.format, scratch);
            self.out.apply(attended, Epilogue::Store, embedding, scratch);
        });
        ImageEmbedding::new(embedding, width)
    }
}

/// The linear map `matrix` `[outer, width]` with `bias`, applied after `dense` from `hidden` to `width` values, as one
/// map.
fn merged_with_dense(
    dense: &Weights,
    hidden: usize,
    matrix: &[f32],
    bias: Vec<f32>,
    format: WeightFormat,
) -> Result<Linear, CheckpointError> {
    let (outer, width) = (bias.len(), matrix.len() / bias.len());
    // Transposed, with the bias as one more column of the map.
    let mut transposed = vec![0.0; (hidden + 1) * width];
    with_values(&dense.get([width, hidden], "weight")?, |values| {
        for (index, row) in values.chunks_exact(hidden).enumerate() {
            transposed[index..].iter_mut().step_by(width).zip(row).for_each(|(to, &value)| *to = value);
        }
    });
    transposed[hidden * width..].copy_from_slice(&vector(dense, width, "bias")?);
    let mut merged = vec![0.0; outer * (hidden + 1)];
    let transposed = PackedWeights::pack(&transposed, hidden + 1, width, WeightFormat::F32);
    linear(matrix, &transposed, None, Epilogue::Store, &mut merged, &mut Scratch::new());
    let (rows, shifts) = (merged.chunks_exact(hidden + 1), merged.iter().skip(hidden).step_by(hidden + 1));
    let bias = bias.iter().zip(shifts).map(|(bias, shift)| bias + shift).collect();
    Ok(Linear::new(&rows.flat_map(|row| &row[..hidden]).copied().collect::<Vec<_>>(), bias, hidden, format))
}
