//! Times one batch by stage, from pixel values to the last token.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use kosmos2::Model;
use kosmos2::backend::Backend;
use kosmos2::config::Config;
use kosmos2::decoding::{ActiveDecoding, Sampler, Sequence, TokenRoles, step_all};
use kosmos2::options::GenerationOptions;
use kosmos2::processor::image::PixelValues;
use kosmos2::processor::prompt::EncodedPrompt;

pub(super) struct Workload {
    pub(super) batch: usize,
    pub(super) new_tokens: usize,
    pub(super) repeat: usize,
    pub(super) warmup: usize,
}

/// Statistics of repeated measurements, in seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Self { median, min: values[0], max: values[values.len() - 1] }
    }
}

pub(super) struct Times {
    pub(super) vision: Spread,
    pub(super) prefill: Spread,
    pub(super) decode_step: Spread,
    pub(super) total: Spread,
    pub(super) peak_memory_bytes: u64,
}

/// Runs the workload. Every run generates exactly `workload.new_tokens` tokens for each picture.
pub(super) fn run(model: &mut Model, workload: &Workload) -> anyhow::Result<Times> {
    let config = model.config().clone();
    let prompt = prompt(&config);
    let pictures = (0..workload.batch).map(|n| picture(&config, n)).collect::<anyhow::Result<Vec<_>>>()?;
    // Without end tokens, so that every run does the same work.
    let roles = Arc::new(TokenRoles { pad: config.text_config.pad_token_id, end: Vec::new(), patches: 0..0 });
    let backend = model.backend();
    backend.reserve(workload.batch, prompt.input_ids.len() + workload.new_tokens)?;
    let (mut vision, mut prefill, mut step, mut total) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..workload.warmup + workload.repeat {
        let times = once(backend, &pictures, &prompt, workload.new_tokens, &roles)?;
        if run >= workload.warmup {
            vision.push(times.vision);
            prefill.push(times.prefill);
            total.push(times.total);
            step.push((times.total - times.vision - times.prefill) / (workload.new_tokens - 1).max(1) as f64);
        }
    }
    Ok(Times {
        vision: Spread::of(vision),
        prefill: Spread::of(prefill),
        decode_step: Spread::of(step),
        total: Spread::of(total),
        peak_memory_bytes: memory(backend)?,
    })
}

/// Used memory of a GPU, including all reserved slots; on the CPU, the process's peak resident memory.
pub(super) fn memory(backend: &dyn Backend) -> anyhow::Result<u64> {
    backend.used_bytes().or_else(peak_memory).context("the system does not report the peak memory")
}

struct Once {
    vision: f64,
    prefill: f64,
    total: f64,
}

fn once(
    backend: &mut dyn Backend,
    pictures: &[PixelValues],
    prompt: &EncodedPrompt,
    new_tokens: usize,
    roles: &Arc<TokenRoles>,
) -> anyhow::Result<Once> {
    let options = GenerationOptions { max_new_tokens: new_tokens, ..GenerationOptions::default() };
    let start = Instant::now();
    let embeddings = backend.image_embeddings(&pictures.iter().collect::<Vec<_>>())?;
    backend.wait()?;
    let vision = start.elapsed().as_secs_f64();
    let sequence = || Sequence::new(prompt, &options, roles, Sampler::new(&options, None)?);
    let mut active = Vec::with_capacity(pictures.len());
    for (slot, embedding) in embeddings.into_iter().enumerate() {
        active.push(ActiveDecoding {
            decoding: sequence()?.into(),
            slots: vec![slot],
            image: Some(Arc::new(embedding)),
        });
    }
    let mut prefill = 0.0;
    for token in 0..new_tokens {
        step_all(backend, &mut active)?;
        if token == 0 {
            prefill = start.elapsed().as_secs_f64() - vision;
        }
    }
    Ok(Once { vision, prefill, total: start.elapsed().as_secs_f64() })
}

/// A prompt of typical form and length: `<s><image>`, the image placeholders, `</image><grounding>` and three words,
/// with ids that every vocabulary has.
pub(super) fn prompt(config: &Config) -> EncodedPrompt {
    let (queries, vocabulary) = (config.latent_query_num as u32, config.text_config.vocab_size as u32);
    let ids = [0, 3].into_iter().chain(4..4 + queries).chain([5, 6, 7, 8, 9]);
    let input_ids: Vec<u32> = ids.map(|id| id % vocabulary).collect();
    let placeholders = 2..2 + config.latent_query_num;
    EncodedPrompt {
        text: String::new(),
        attention_mask: vec![1; input_ids.len()],
        image_embeds_position_mask: Some((0..input_ids.len()).map(|at| u8::from(placeholders.contains(&at))).collect()),
        input_ids,
    }
}

pub(super) fn picture(config: &Config, n: usize) -> anyhow::Result<PixelValues> {
    let side = config.vision_config.image_size;
    let values = (0..3 * side * side).map(|at| ((at * 37 + n * 101) % 255) as f32 / 127.5 - 1.0).collect();
    PixelValues::new(values, side).context("a picture has three planes")
}

/// Peak resident memory of this process in bytes, including mapped files.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
