//! The number of slots, and which of them are free.

use kosmos2::ModelError;
use kosmos2::backend::Backend;

use crate::options::{EngineOptions, KvCapacity};

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The slots do not fit into the device's free memory.
    #[error(
        "{slots} slots of {slot_tokens} tokens need {needed_mib} MiB, but the device has {free_mib} MiB free; lower engine.slots or engine.slot_tokens"
    )]
    Memory {
        /// Requested slots.
        slots: usize,
        /// Tokens of each slot.
        slot_tokens: usize,
        /// Size of their keys and values, in MiB.
        needed_mib: u64,
        /// Free memory, in MiB.
        free_mib: u64,
    },
    /// The number of slots, or of their tokens, is zero.
    #[error("engine.slots and engine.slot_tokens must be at least 1")]
    NoSlots,
    /// The backend could not allocate the slots.
    #[error("the slots cannot be allocated: {0}")]
    Allocate(#[from] ModelError),
    /// The scheduler's thread could not be spawned.
    #[error("the engine's thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The compute threads could not be spawned.
    #[error("the engine's compute threads cannot be started: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// Fraction of the free memory left for a step's activations and for other processes.
const RESERVED_FRACTION: f64 = 0.2;

/// Allocates the requested number of slots, or as many as fit.
pub(crate) fn reserve(backend: &mut dyn Backend, options: &EngineOptions) -> Result<KvCapacity, StartError> {
    let slot_tokens = options.slot_tokens;
    let free = backend.free_bytes();
    let preferred = backend.preferred_batches().slots;
    let slots = slot_count(options.slots, preferred, slot_tokens, backend.slot_bytes(slot_tokens), free)?;
    backend.reserve(slots, slot_tokens)?;
    let mib = (backend.slot_bytes(slot_tokens) * slots as u64) >> 20;
    tracing::info!(slots, slot_tokens, mib, free_mib = free.map(|bytes| bytes >> 20), "engine slots allocated");
    Ok(KvCapacity { slots, slot_tokens })
}

fn slot_count(
    requested: Option<usize>,
    preferred: usize,
    slot_tokens: usize,
    slot_bytes: u64,
    free: Option<u64>,
) -> Result<usize, StartError> {
    if slot_tokens == 0 || requested == Some(0) {
        return Err(StartError::NoSlots);
    }
    let usable = free.map(|bytes| (bytes as f64 * (1.0 - RESERVED_FRACTION)) as u64);
    let most = usable.map_or(usize::MAX, |bytes| usize::try_from(bytes / slot_bytes.max(1)).unwrap_or(usize::MAX));
    let slots = requested.unwrap_or(preferred.min(most).max(1));
    if slots > most {
        let needed_mib = slot_bytes.saturating_mul(slots as u64) >> 20;
        return Err(StartError::Memory { slots, slot_tokens, needed_mib, free_mib: free.unwrap_or(0) >> 20 });
    }
    Ok(slots)
}

/// The free slots; the lowest is taken first.
pub(crate) struct FreeSlots(Vec<usize>);

impl FreeSlots {
    pub(crate) fn all(slots: usize) -> Self {
        Self((0..slots).rev().collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes `count` slots; at least as many must be free.
    pub(crate) fn take(&mut self, count: usize) -> Vec<usize> {
        let rest = self.0.len().saturating_sub(count);
        self.0.split_off(rest)
    }

    pub(crate) fn release(&mut self, slots: Vec<usize>) {
        self.0.extend(slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn left_open_the_number_of_slots_is_what_fits_but_not_more_than_help() {
        assert_eq!(slot_count(None, 16, 512, 100 * MIB, Some(1000 * MIB)).unwrap(), 8);
        assert_eq!(slot_count(None, 16, 512, MIB, Some(1000 * MIB)).unwrap(), 16);
        assert_eq!(slot_count(None, 16, 512, MIB, None).unwrap(), 16);
    }

    #[test]
    fn slots_that_cannot_fit_are_refused_in_a_sentence_with_figures() {
        for requested in [Some(9), None] {
            let free = if requested.is_some() { 1000 * MIB } else { 10 * MIB };
            let error = slot_count(requested, 16, 512, 100 * MIB, Some(free)).unwrap_err().to_string();
            assert!(error.contains("MiB free; lower engine.slots"), "{error}");
        }
        assert!(matches!(slot_count(Some(0), 16, 512, MIB, None), Err(StartError::NoSlots)));
        assert!(matches!(slot_count(None, 16, 0, 0, None), Err(StartError::NoSlots)));
    }
}
