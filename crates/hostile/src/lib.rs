//! Input made to hurt, the same at every run: what the tests throw at decoders and workers, and seeds for the fuzzers.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod pictures;
mod random;

pub use random::Random;

/// What the model's tokenizer takes for a token with a meaning of its own, of the patch indices only one.
pub const TAGS: [&str; 16] = [
    "<s>",
    "</s>",
    "<pad>",
    "<mask>",
    "<image>",
    "</image>",
    "<grounding>",
    "<phrase>",
    "</phrase>",
    "<object>",
    "</object>",
    "<patch_index_0001>",
    "</delimiter_of_multi_objects/>",
    "</doc>",
    "</chunk>",
    "</line>",
];
