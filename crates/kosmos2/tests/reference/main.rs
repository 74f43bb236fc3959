//! Comparisons with the goldens of the reference, and with other implementations.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

#[path = "../common/mod.rs"]
mod common;

mod beam;
mod emoji;
mod hostile_words;
mod markup;
mod model;
mod pickled;
mod pixels;
mod prompts;
mod refined;
mod sampling_oracle;
mod scoring;
mod well_formed;
