//! processor/prompt

/// A prompt and its boxes.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt;
