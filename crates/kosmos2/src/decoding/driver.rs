//! Runs decodings step by step. The engine, [`run_to_end`] and the benchmarks all use [`step`].

use std::sync::Arc;

use rayon::iter::{IntoParallelRefMutIterator, ParallelIterator};

use super::dispatch::Decoding;
use super::progress::Progress;
use crate::backend::{Backend, ImageEmbedding, LogitsOutput, Segment, split_outputs};
use crate::error::ModelError;

/// Minimum number of decodings for which outputs are accepted in parallel, if the backend has chosen all tokens. Below
/// it, waking the threads takes longer than the bookkeeping.
const PARALLEL_ACCEPT: usize = 128;

/// A decoding with its slots and its picture.
pub struct ActiveDecoding {
    /// The decoding.
    pub decoding: Decoding,
    /// Its [`Decoding::slots`] slots, which no other decoding of a step uses.
    pub slots: Vec<usize>,
    /// The picture that the prompt is about.
    pub image: Option<Arc<ImageEmbedding>>,
}

impl ActiveDecoding {
    fn segments(&self) -> Vec<Segment<'_>> {
        self.decoding.segments(&self.slots, self.image.as_deref())
    }
}

impl AsRef<Self> for ActiveDecoding {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// Computes the new tokens of all decodings in one pass, then calls `accept` once for each decoding with its outputs,
/// which it must pass to [`Decoding::accept`]. Calls to `accept` may run in parallel.
///
/// # Errors
/// [`ModelError`] if the pass fails. `accept` has not been called then, and the step may be repeated.
pub fn step<T: AsRef<ActiveDecoding> + Send>(
    backend: &mut dyn Backend,
    active: &mut [T],
    accept: impl Fn(&mut T, &[LogitsOutput<'_>]) + Sync,
) -> Result<(), ModelError> {
    let segments: Vec<Vec<Segment>> = active.iter().map(|active| active.as_ref().segments()).collect();
    let counts: Vec<usize> = segments.iter().map(|segments| segments.iter().map(|s| s.logits.len()).sum()).collect();
    let mut requests = Vec::with_capacity(active.len());
    active.iter().for_each(|active| active.as_ref().decoding.logits_requests(&mut requests));
    let segments = segments.concat();
    let outputs = backend.decode(&segments, &requests)?;
    drop(segments);
    let mut with_outputs: Vec<_> = active.iter_mut().zip(split_outputs(&outputs, &counts)).collect();
    let accept = |(active, outputs): &mut (&mut T, &[LogitsOutput])| accept(active, outputs);
    // Sampling from logits reads the whole vocabulary, which is always worth a thread.
    if with_outputs.len() >= PARALLEL_ACCEPT || outputs.iter().any(|output| matches!(output, LogitsOutput::Logits(_))) {
        with_outputs.par_iter_mut().for_each(accept);
    } else {
        with_outputs.iter_mut().for_each(accept);
    }
    Ok(())
}

/// A decoding of [`step_all`] with the result of its step.
struct Stepped<'a> {
    active: &'a mut ActiveDecoding,
    result: Result<Progress, ModelError>,
}

impl AsRef<ActiveDecoding> for Stepped<'_> {
    fn as_ref(&self) -> &ActiveDecoding {
        self.active
    }
}

/// Runs one [`step`] and returns the progress of each decoding, in order.
///
/// # Errors
/// [`ModelError`] of the pass, or of the first decoding whose outputs are not finite.
pub fn step_all(backend: &mut dyn Backend, active: &mut [ActiveDecoding]) -> Result<Vec<Progress>, ModelError> {
    let mut stepped: Vec<_> =
        active.iter_mut().map(|active| Stepped { active, result: Ok(Progress::Unfinished) }).collect();
    step(backend, &mut stepped, |stepped, outputs| stepped.result = stepped.active.decoding.accept(outputs))?;
    stepped.into_iter().map(|stepped| stepped.result).collect()
}

/// Runs all decodings to their ends in one batch and returns them in order. Reserves the backend's slots anew, which
/// discards their contents.
///
/// # Errors
/// [`ModelError`] of the first failure.
pub fn run_to_end(
    backend: &mut dyn Backend,
    decodings: impl IntoIterator<Item = (Decoding, Option<Arc<ImageEmbedding>>)>,
) -> Result<Vec<Decoding>, ModelError> {
    let mut slot_count = 0;
    let mut active: Vec<ActiveDecoding> = Vec::new();
    for (decoding, image) in decodings {
        let slots = (slot_count..slot_count + decoding.slots()).collect::<Vec<_>>();
        slot_count += slots.len();
        active.push(ActiveDecoding { decoding, slots, image });
    }
    let slot_tokens = active.iter().map(|active| active.decoding.max_tokens()).max().unwrap_or(0);
    backend.reserve(slot_count, slot_tokens)?;
    let mut order: Vec<usize> = (0..active.len()).collect();
    let mut finished: Vec<(usize, Decoding)> = Vec::with_capacity(active.len());
    while !active.is_empty() {
        let progress = step_all(backend, &mut active)?;
        for index in (0..active.len()).rev().filter(|&index| progress[index] == Progress::Finished) {
            finished.push((order.remove(index), active.remove(index).decoding));
        }
    }
    finished.sort_unstable_by_key(|(index, _)| *index);
    Ok(finished.into_iter().map(|(_, decoding)| decoding).collect())
}
