//! Malformed and hostile inputs for tests of decoders and workers, and seeds for fuzz targets. The same in every run.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod pictures;
mod random;

pub use random::Random;

/// The special tokens of the model's tokenizer, with one of its patch tokens.
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
