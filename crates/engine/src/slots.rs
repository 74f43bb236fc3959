//! How many sequences the device holds, and which places are free.

use kosmos2::ModelError;
use kosmos2::backend::Backend;

use crate::{EngineOptions, KvCapacity};

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The memory asked for is not there.
    #[error(
        "{slots} slots of {slot_tokens} tokens need {needed_mib} MiB, but the device has {free_mib} MiB free; lower engine.slots or engine.slot_tokens"
    )]
    Memory {
        /// Slots asked for.
        slots: usize,
        /// Tokens of each.
        slot_tokens: usize,
        /// Their keys and values, in MiB.
        needed_mib: u64,
        /// What is free, in MiB.
        free_mib: u64,
    },
    /// No slots, or slots of no tokens.
    #[error("engine.slots and engine.slot_tokens must be at least 1")]
    NoRoom,
    /// The device refused.
    #[error("the slots cannot be reserved: {0}")]
    Scheduler(#[from] ModelError),
    /// The system gave no thread.
    #[error("the device's thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The system gave no threads to compute with.
    #[error("the device's threads cannot be started: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// Share of the free memory left alone: activations of a step, and whoever else is on the machine.
const KEPT_FREE: f64 = 0.2;

/// Reserves the slots asked for, or as many as fit.
pub(crate) fn reserve(backend: &mut dyn Backend, options: &EngineOptions) -> Result<KvCapacity, StartError> {
    let slot_tokens = options.slot_tokens;
    let free = backend.free_bytes();
    let useful = backend.preferred_batches().slots;
    let slots = fitting(options.slots, useful, slot_tokens, backend.slot_bytes(slot_tokens), free)?;
    backend.reserve(slots, slot_tokens)?;
    let mib = (backend.slot_bytes(slot_tokens) * slots as u64) >> 20;
    tracing::info!(slots, slot_tokens, mib, free_mib = free.map(|bytes| bytes >> 20), "slots are reserved");
    Ok(KvCapacity { slots, slot_tokens })
}

fn fitting(
    asked: Option<usize>,
    useful: usize,
    slot_tokens: usize,
    slot_bytes: u64,
    free: Option<u64>,
) -> Result<usize, StartError> {
    if slot_tokens == 0 || asked == Some(0) {
        return Err(StartError::NoRoom);
    }
    let usable = free.map(|bytes| (bytes as f64 * (1.0 - KEPT_FREE)) as u64);
    let most = usable.map_or(usize::MAX, |bytes| usize::try_from(bytes / slot_bytes.max(1)).unwrap_or(usize::MAX));
    let slots = asked.unwrap_or(useful.min(most).max(1));
    if slots > most {
        let needed_mib = slot_bytes.saturating_mul(slots as u64) >> 20;
        return Err(StartError::Memory { slots, slot_tokens, needed_mib, free_mib: free.unwrap_or(0) >> 20 });
    }
    Ok(slots)
}

/// Slots that nobody uses, the lowest first.
pub(crate) struct FreeSlots(Vec<usize>);

impl FreeSlots {
    pub(crate) fn all(slots: usize) -> Self {
        Self((0..slots).rev().collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// `count` slots, which must be free.
    pub(crate) fn take(&mut self, count: usize) -> Vec<usize> {
        let rest = self.0.len().saturating_sub(count);
        self.0.split_off(rest)
    }

    pub(crate) fn give_back(&mut self, slots: Vec<usize>) {
        self.0.extend(slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn left_open_the_number_of_slots_is_what_fits_but_not_more_than_help() {
        assert_eq!(fitting(None, 16, 512, 100 * MIB, Some(1000 * MIB)).unwrap(), 8);
        assert_eq!(fitting(None, 16, 512, MIB, Some(1000 * MIB)).unwrap(), 16);
        assert_eq!(fitting(None, 16, 512, MIB, None).unwrap(), 16);
    }

    #[test]
    fn slots_that_cannot_fit_are_refused_in_a_sentence_with_figures() {
        for asked in [Some(9), None] {
            let free = if asked.is_some() { 1000 * MIB } else { 10 * MIB };
            let error = fitting(asked, 16, 512, 100 * MIB, Some(free)).unwrap_err().to_string();
            assert!(error.contains("MiB free; lower engine.slots"), "{error}");
        }
        assert!(matches!(fitting(Some(0), 16, 512, MIB, None), Err(StartError::NoRoom)));
        assert!(matches!(fitting(None, 16, 0, 0, None), Err(StartError::NoRoom)));
    }
}
