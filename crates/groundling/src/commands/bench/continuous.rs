//! Texts of unequal lengths, the next joining as one ends: what a queue of work does to a batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use kosmos2::Progress;
use kosmos2::backend::Backend;
use kosmos2::checkpoint::random::draw;
use kosmos2::driver::{ActiveDecoding, step_all};
use kosmos2::model::Model;
use kosmos2::options::GenerationOptions;
use kosmos2::processor::image::PixelValues;
use kosmos2::processor::prompt::EncodedPrompt;
use kosmos2::sampling::Sampler;
use kosmos2::sequence::{Sequence, TokenRoles};

use super::measure::{Spread, Workload, memory, picture, prompt};

/// Pictures that join in one step at most; their prompts lengthen everyone's step.
const JOINING: usize = 64;

/// Pictures that differ; more would only fill the host's memory.
const DIFFERENT: usize = 64;

pub(super) struct Times {
    pub(super) total: Spread,
    pub(super) tokens: usize,
    pub(super) peak_memory_bytes: u64,
}

/// Runs `pictures` pictures, `workload.batch` at once, each for a number of tokens between the two, as often as asked.
pub(super) fn run(
    model: &mut Model,
    workload: &Workload,
    (min, max): (usize, usize),
    pictures: usize,
) -> anyhow::Result<Times> {
    let config = model.config().clone();
    let prompt = prompt(&config);
    let shown = (0..DIFFERENT.min(pictures)).map(|n| picture(&config, n)).collect::<anyhow::Result<Vec<_>>>()?;
    let lengths: Vec<usize> =
        (0..pictures as u64).map(|n| min + (draw(0, n) % (max - min + 1) as u64) as usize).collect();
    let roles = Arc::new(TokenRoles { pad: config.text_config.pad_token_id, end: Vec::new(), patches: 0..0 });
    let backend = model.backend();
    backend.reserve(workload.batch, prompt.input_ids.len() + max)?;
    let mut total = Vec::new();
    for run in 0..workload.warmup + workload.repeat {
        let start = Instant::now();
        once(backend, &shown, &prompt, &lengths, workload.batch, &roles)?;
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
    let mut running: Vec<ActiveDecoding> = Vec::new();
    while !(waiting.is_empty() && running.is_empty()) {
        let joining = waiting.drain(..waiting.len().min(free.len()).min(JOINING)).collect::<Vec<_>>();
        let seen: Vec<_> = joining.iter().map(|(index, _)| &pictures[index % pictures.len()]).collect();
        let embeddings = if seen.is_empty() { Vec::new() } else { backend.image_embeddings(&seen)? };
        for ((_, length), embedding) in joining.into_iter().zip(embeddings) {
            let options = GenerationOptions { max_new_tokens: length, ..GenerationOptions::default() };
            let sequence = Sequence::new(prompt, &options, roles, Sampler::new(&options, None)?)?;
            let slot = free.pop().unwrap_or_default();
            let image = Some(Arc::new(embedding));
            running.push(ActiveDecoding { decoding: sequence.into(), slots: vec![slot], image });
        }
        let progress = step_all(backend, &mut running)?;
        for index in (0..running.len()).rev().filter(|&index| progress[index] == Progress::Finished) {
            free.extend(running.remove(index).slots);
        }
    }
    Ok(())
}
