//! Seeded random checkpoints in KOSMOS-2's layout and of any size, for tests, benchmarks and capacity planning.
//!
//! Values are computed by SplitMix64 from their index and are exact in f32, so that a few lines in another language
//! produce the same file for a reference implementation.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use candle_core::DType;
use half::{bf16, f16};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use serde_json::json;

use crate::config::Config;

/// Writes `model.safetensors` for `config` into `dir`, stored as f32, f16 or bf16. Uses as much memory as the largest
/// tensor.
///
/// # Errors
/// [`io::Error`] if the file cannot be written, or for another dtype.
pub fn write_weights(dir: &Path, config: &Config, seed: u64, dtype: DType) -> io::Result<()> {
    let name = match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        other => return Err(io::Error::other(format!("weights are stored as f32, f16 or bf16, not {other:?}"))),
    };
    let tensors = tensors(config);
    let mut header = serde_json::Map::new();
    let mut offset = 0;
    for (tensor, shape) in &tensors {
        let end = offset + shape.iter().product::<usize>() * dtype.size_in_bytes();
        header.insert(tensor.clone(), json!({"dtype": name, "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    // Padding with blanks, so that the data are aligned to 8 bytes as the format recommends.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::with_capacity(1 << 20, File::create(dir.join("model.safetensors"))?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for (tensor, shape) in &tensors {
        for value in values(tensor, shape, seed).collect::<Vec<f32>>() {
            match dtype {
                DType::F16 => file.write_all(&f16::from_f32(value).to_le_bytes())?,
                DType::BF16 => file.write_all(&bf16::from_f32(value).to_le_bytes())?,
                _ => file.write_all(&value.to_le_bytes())?,
            }
        }
    }
    file.flush()
}

/// The values of one tensor, uniformly distributed around a mean. The deviation depends on the tensor's role, so that
/// every tensor affects the result and greedy decoding does not repeat one token.
pub(super) fn values(name: &str, shape: &[usize], seed: u64) -> impl IndexedParallelIterator<Item = f32> {
    let (mean, deviation) = mean_and_deviation(name, shape);
    // A uniform distribution on [-a, a) has the deviation a / √3.
    let (mean, half_width) = (mean as f32, (deviation * 3f64.sqrt()) as f32);
    let stream = name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3) // FNV-1a
    });
    (0..shape.iter().product::<usize>()).into_par_iter().map(move |index| {
        let bits = split_mix(stream, index as u64) >> 40;
        let unit = bits as f32 / (1u32 << 23) as f32 - 1.0; // 24 bits: exact, in [-1, 1)
        mean + unit * half_width
    })
}

/// The number at `index` of SplitMix64 (Steele, Lea and Flood, 2014) with this seed.
pub fn split_mix(seed: u64, index: u64) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let z = seed.wrapping_add(index.wrapping_mul(STEP)).wrapping_add(STEP);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn mean_and_deviation(name: &str, shape: &[usize]) -> (f64, f64) {
    let fan_in = shape.iter().skip(1).product::<usize>() as f64;
    let is_norm = ["norm", "attn_ln", "layrnorm"].iter().any(|part| name.contains(part));
    match name {
        "text_model.model.layer_norm.weight" => (2.0, 0.3),
        _ if is_norm && name.ends_with("weight") => (1.0, 0.3),
        _ if is_norm => (0.0, 0.2),
        _ if name.ends_with("bias") => (0.0, 0.1),
        _ if name.contains("embed_tokens") => (0.0, 0.1),
        _ if name.contains("x_attn.out_proj") => (0.0, 0.04),
        _ if name.contains("projection.dense") => (0.0, 1.0),
        _ if name.starts_with("text_model") && name.contains("out_proj") => (0.0, 0.5 / fan_in.sqrt()),
        // Large feed-forward weights make the next token depend on the current one.
        _ if name.contains("ffn.fc2") => (0.0, 6.0 / fan_in.sqrt()),
        _ if ["latent_query", "class_embedding", "position_embedding"].iter().any(|part| name.contains(part)) => {
            (0.0, 0.5)
        }
        _ => (0.0, 1.6 / fan_in.sqrt()),
    }
}

/// Name and shape of every tensor of a checkpoint, without the tied head.
pub fn tensors(config: &Config) -> Vec<(String, Vec<usize>)> {
    let (vision, text) = (&config.vision_config, &config.text_config);
    let (hidden, width) = (vision.hidden_size, text.embed_dim);
    let mut list = TensorList::default();
    let mut tower = list.within("vision_model.model");
    tower.add("embeddings.class_embedding", &[hidden]);
    tower.add("embeddings.patch_embedding.weight", &[hidden, 3, vision.patch_size, vision.patch_size]);
    tower.add("embeddings.position_embedding.weight", &[vision.patches() + 1, hidden]);
    tower.norm("pre_layrnorm", hidden);
    for n in 0..vision.num_hidden_layers {
        let mut layer = tower.within(&format!("encoder.layers.{n}"));
        layer.attention("self_attn", hidden);
        layer.norm("layer_norm1", hidden);
        layer.map("mlp.fc1", hidden, vision.intermediate_size);
        layer.map("mlp.fc2", vision.intermediate_size, hidden);
        layer.norm("layer_norm2", hidden);
    }
    tower.norm("post_layernorm", hidden);
    let mut projection = list.within("image_to_text_projection");
    projection.add("latent_query", &[config.latent_query_num, width]);
    projection.map("dense", hidden, width);
    projection.attention("x_attn", width);
    let mut decoder = list.within("text_model.model");
    decoder.add("embed_tokens.weight", &[text.vocab_size, width]);
    for n in 0..text.layers {
        let mut layer = decoder.within(&format!("layers.{n}"));
        layer.attention("self_attn", width);
        layer.norm("self_attn.inner_attn_ln", width);
        layer.norm("self_attn_layer_norm", width);
        layer.map("ffn.fc1", width, text.ffn_dim);
        layer.map("ffn.fc2", text.ffn_dim, width);
        layer.norm("ffn.ffn_layernorm", text.ffn_dim);
        layer.norm("final_layer_norm", width);
    }
    decoder.norm("layer_norm", width);
    list.tensors
}

#[derive(Default)]
struct TensorList {
    tensors: Vec<(String, Vec<usize>)>,
}

impl TensorList {
    fn within(&mut self, prefix: &str) -> Scope<'_> {
        Scope { tensors: &mut self.tensors, prefix: prefix.to_owned() }
    }
}

struct Scope<'a> {
    tensors: &'a mut Vec<(String, Vec<usize>)>,
    prefix: String,
}

impl Scope<'_> {
    fn within(&mut self, name: &str) -> Scope<'_> {
        Scope { prefix: format!("{}.{name}", self.prefix), tensors: self.tensors }
    }

    fn add(&mut self, name: &str, shape: &[usize]) {
        self.tensors.push((format!("{}.{name}", self.prefix), shape.to_vec()));
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), &[width]);
        self.add(&format!("{name}.bias"), &[width]);
    }

    fn map(&mut self, name: &str, inner: usize, outer: usize) {
        self.add(&format!("{name}.weight"), &[outer, inner]);
        self.add(&format!("{name}.bias"), &[outer]);
    }

    fn attention(&mut self, name: &str, width: usize) {
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            self.map(&format!("{name}.{part}"), width, width);
        }
    }
}
