//! From what a user has (a picture, a prompt) to what the model is fed.

pub mod image;
pub mod prompt;
pub mod tokenizer;
