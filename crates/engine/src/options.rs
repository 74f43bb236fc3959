//! Settings of the engine.

use std::time::Duration;

use kosmos2::backend::PreferredBatches;

/// The engine's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Number of slots. Each query takes one, a beam search one for each beam. `None`: as many as fit into the device's
    /// free memory, up to the backend's preference. That is 32 on a CPU, where more slots add little throughput and
    /// delay every query.
    pub slots: Option<usize>,
    /// Maximum tokens of a sequence: image, prompt and answer.
    pub slot_tokens: usize,
    /// Maximum pictures in one pass of the vision tower, and the length of the queue. `None`: the backend's preference.
    pub vision_batch: Option<usize>,
    /// Maximum prompt tokens of a step. `None`: the backend's preference.
    pub prompt_tokens: Option<usize>,
    /// How long the engine may make no progress with work in hand before it counts as stalled. `None`: 120 s on a GPU; on
    /// the CPU 20 times the longest pass so far, but at least 5 minutes.
    pub stall_timeout: Option<Duration>,
}

/// Number of slots on every device if [`EngineOptions::slots`] is `None` and memory allows it.
pub const USUAL_SLOTS: usize = PreferredBatches::OF_A_CPU.slots;

impl Default for EngineOptions {
    fn default() -> Self {
        Self { slots: None, slot_tokens: 512, vision_batch: None, prompt_tokens: None, stall_timeout: None }
    }
}

/// The number of slots and the tokens that each holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCapacity {
    /// Number of slots.
    pub slots: usize,
    /// Tokens of each slot.
    pub slot_tokens: usize,
}
