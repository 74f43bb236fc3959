//! Drives decodings step by step. The engine, [`run_to_end`] and the benchmarks all go through [`step`].

use std::sync::Arc;

use rayon::iter::{IntoParallelRefMutIterator, ParallelIterator};

use crate::backend::{Backend, ImageEmbedding, LogitsOutput, Segment, split_outputs};
use crate::decoding::Decoding;
use crate::error::ModelError;
use crate::progress::Progress;

/// Fewest decodings for which choosing the next tokens is worth more than one thread where the backend has already
/// chosen them: below it, waking the threads takes longer than the bookkeeping.
const PARALLEL_ACCEPT: usize = 128;

/// A decoding with the slots that hold its keys and values, and its picture.
pub struct ActiveDecoding {
    /// The decoding.
    pub decoding: Decoding,
    /// Its slots, [`Decoding::slots`] many, shared with no other decoding of a step.
    pub slots: Vec<usize>,
    /// The picture that the prompt refers to.
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

/// Computes the new tokens of all decodings in one pass, then calls `accept` once for each with the outputs that it
/// must give to [`Decoding::accept`]. Calls to `accept` may run in parallel.
///
/// # Errors
/// [`ModelError`] when the pass fails. Nothing was accepted then, and the step may be repeated.
pub fn step<T: AsRef<ActiveDecoding> + Send>(
    backend: &mut dyn Backend,
    active: &mut [T],
    accept: impl Fn(&mut T, &[LogitsOutput<'_>]) + Sync,
) -> Result<(), ModelError> {
    let segments: Vec<Vec<Segment>> = active.iter().map(|one| one.as_ref().segments()).collect();
    let counts: Vec<usize> = segments.iter().map(|own| own.iter().map(|s| s.logits.len()).sum()).collect();
    let mut requests = Vec::with_capacity(active.len());
    active.iter().for_each(|one| one.as_ref().decoding.logits_requests(&mut requests));
    let segments = segments.concat();
    let outputs = backend.decode(&segments, &requests)?;
    drop(segments);
    let mut owned: Vec<_> = active.iter_mut().zip(split_outputs(&outputs, &counts)).collect();
    let accept = |(one, outputs): &mut (&mut T, &[LogitsOutput])| accept(one, outputs);
    // Choosing from logits reads the whole vocabulary, which is always worth a thread.
    if owned.len() >= PARALLEL_ACCEPT || outputs.iter().any(|output| matches!(output, LogitsOutput::Logits(_))) {
        owned.par_iter_mut().for_each(accept);
    } else {
        owned.iter_mut().for_each(accept);
    }
    Ok(())
}

/// A decoding of [`step_all`] and what its last step brought.
struct Stepped<'a> {
    active: &'a mut ActiveDecoding,
    result: Result<Progress, ModelError>,
}

impl AsRef<ActiveDecoding> for Stepped<'_> {
    fn as_ref(&self) -> &ActiveDecoding {
        self.active
    }
}

/// One [`step`] of decodings that succeed or fail together; the progress of each, in order.
///
/// # Errors
/// [`ModelError`] of the pass, or of the first decoding that cannot accept its outputs.
pub fn step_all(backend: &mut dyn Backend, active: &mut [ActiveDecoding]) -> Result<Vec<Progress>, ModelError> {
    let mut stepped: Vec<_> =
        active.iter_mut().map(|active| Stepped { active, result: Ok(Progress::Unfinished) }).collect();
    step(backend, &mut stepped, |one, outputs| one.result = one.active.decoding.accept(outputs))?;
    stepped.into_iter().map(|one| one.result).collect()
}

/// Runs every decoding to its end in a batch of its own and gives the decodings back in order. What the backend's
/// slots held before is lost.
///
/// # Errors
/// [`ModelError`] of the first that fails.
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
    let slot_tokens = active.iter().map(|one| one.decoding.max_tokens()).max().unwrap_or(0);
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
