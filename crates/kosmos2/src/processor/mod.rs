//! Processors: pictures to pixel values, prompts to token ids.

pub mod image;
pub mod prompt;
pub mod tokenizer;
