//! Settings of the engine.

/// The engine's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Number of slots. Each query takes one, a beam search one for each beam. `None`: as many as fit into the device's
    /// free memory, up to the backend's preference. That is 16 on a CPU, where more slots add little throughput and
    /// delay every query.
    pub slots: Option<usize>,
    /// Maximum tokens of a sequence: image, prompt and answer.
    pub slot_tokens: usize,
    /// Maximum pictures in one pass of the vision tower, and the length of the queue. `None`: the backend's preference.
    pub vision_batch: Option<usize>,
    /// Maximum prompt tokens of a step. `None`: the backend's preference.
    pub prompt_tokens: Option<usize>,
}

/// Number of slots on every device if [`EngineOptions::slots`] is `None` and memory allows it.
pub const USUAL_SLOTS: usize = 16;

impl Default for EngineOptions {
    fn default() -> Self {
        Self { slots: None, slot_tokens: 512, vision_batch: None, prompt_tokens: None }
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
