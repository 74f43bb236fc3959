//! Answers of different lengths with continuous batching: a new picture joins when an answer ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use kosmos2::Model;
use kosmos2::backend::Backend;
use kosmos2::checkpoint::random::split_mix;
use kosmos2::decoding::{ActiveDecoding, Progress, Sampler, Sequence, TokenRoles, step_all};
use kosmos2::options::GenerationOptions;
use kosmos2::processor::image::PixelValues;
use kosmos2::processor::prompt::EncodedPrompt;

use super::measure::{Spread, Workload, memory, picture, prompt};

/// Maximum pictures that join in one step. Their prompts delay the active sequences.
const MAX_JOINING: usize = 64;

/// Number of distinct pictures. More would only take memory.
const DISTINCT: usize = 64;

pub(super) struct Times {
    pub(super) total: Spread,
    pub(super) tokens: usize,
    pub(super) peak_memory_bytes: u64,
}

/// Runs `pictures` pictures, `workload.batch` at a time. The answers' lengths are pseudorandom in the given range.
pub(super) fn run(
    model: &mut Model,
    workload: &Workload,
    (min, max): (usize, usize),
    pictures: usize,
) -> anyhow::Result<Times> {
    let config = model.config().clone();
    let prompt = prompt(&config);
    let distinct = (0..DISTINCT.min(pictures)).map(|n| picture(&config, n)).collect::<anyhow::Result<Vec<_>>>()?;
    let lengths: Vec<usize> =
        (0..pictures as u64).map(|n| min + (split_mix(0, n) % (max - min + 1) as u64) as usize).collect();
    let roles = Arc::new(TokenRoles { pad: config.text_config.pad_token_id, end: Vec::new(), patches: 0..0 });
    let backend = model.backend();
    backend.reserve(workload.batch, prompt.input_ids.len() + max)?;
    let mut total = Vec::new();
    for run in 0..workload.warmup + workload.repeat {
        let start = Instant::now();
        once(backend, &distinct, &prompt, &lengths, workload.batch, &roles)?;
        if run >= workload.warmup {
            total.push(start.elapsed().as_secs_f64());
        }
    }
    let peak_memory_bytes = memory(backend)?;
    Ok(Times { total: Spread::of(total), tokens: lengths.iter().sum(), peak_memory_bytes })
}

fn once(
    backend: &mut dyn Backend,
    pictures: &[PixelValues],
    prompt: &EncodedPrompt,
    lengths: &[usize],
    slots: usize,
    roles: &Arc<TokenRoles>,
) -> anyhow::Result<()> {
    let mut waiting: VecDeque<(usize, usize)> = lengths.iter().copied().enumerate().collect();
    let mut free: Vec<usize> = (0..slots).rev().collect();
    let mut active: Vec<ActiveDecoding> = Vec::new();
    while !(waiting.is_empty() && active.is_empty()) {
        let joining = waiting.drain(..waiting.len().min(free.len()).min(MAX_JOINING)).collect::<Vec<_>>();
        let new_pictures: Vec<_> = joining.iter().map(|(index, _)| &pictures[index % pictures.len()]).collect();
        let embeddings = if new_pictures.is_empty() { Vec::new() } else { backend.image_embeddings(&new_pictures)? };
        for ((_, length), embedding) in joining.into_iter().zip(embeddings) {
            let options = GenerationOptions { max_new_tokens: length, ..GenerationOptions::default() };
            let sequence = Sequence::new(prompt, &options, roles, Sampler::new(&options, None)?)?;
            let slot = free.pop().unwrap_or_default();
            let image = Some(Arc::new(embedding));
            active.push(ActiveDecoding { decoding: sequence.into(), slots: vec![slot], image });
        }
        let progress = step_all(backend, &mut active)?;
        for index in (0..active.len()).rev().filter(|&index| progress[index] == Progress::Finished) {
            free.extend(active.remove(index).slots);
        }
    }
    Ok(())
}
