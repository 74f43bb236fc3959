//! Input made to hurt, the same at every run: what the tests throw at decoders and workers, and seeds for the fuzzers.
#![forbid(unsafe_code)]

pub mod pictures;
mod random;

pub use random::Random;
