//! KOSMOS-2 as a library: a picture and a prompt in, grounded text with boxes and scores out.
//!
//! No network, no async, nothing of queues: see the `engine` and `worker` crates for those.
//!
//! # Which reference
//! The behaviour is that of Hugging Face transformers 5.23 (`Kosmos2ForConditionalGeneration`, `Kosmos2Processor`,
//! `post_process_generation`), in the places where its releases differ:
//!
//! | matter | followed | why |
//! | --- | --- | --- |
//! | attention of the latent queries | not causal (5.23; eager attention of all) | up to 5.17 the default sdpa path masks it by mistake, which the checkpoint was not trained with |
//! | positions of generated tokens in a left-padded batch | non-pad tokens of the row are counted (4.35; 5.x without a cache) | 5.x with a cache counts padding too, so a row's text depends on its neighbours |
//! | transparency | composited on white (5.23) | up to 5.17 alpha is dropped, which shows whatever colour hides under it |
//! | orientation of EXIF and XMP | applied (`load_image`), with a switch for the plain behaviour of a passed PIL image | the boxes then fit the picture as people see it |
//! | resizing | Pillow's bytes, not torchvision's | the two differ by one step on 0.1 % to 1 % of values; Pillow's is the older and can be matched bit for bit |
//! | `no_repeat_ngram_size: 3` in the published text config | not applied unless asked for (5.x) | 4.x applied it by default; ask for `no_repeat_ngram_size` 3 to get that |
//! | row 1 (`<pad>`) of the embedding | as stored (5.23) | 5.17 zeroes it after loading; only the logit of `<pad>` differs |
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod backend;
pub mod beam_search;
pub mod beam_slots;
pub mod checkpoint;
pub mod compute;
pub mod config;
pub mod decoding;
pub mod driver;
mod error;
pub mod grounding;
mod kosmos2;
pub mod model;
pub mod options;
pub mod processor;
mod progress;
mod reductions;
pub mod sampling;
pub mod sequence;
mod small_file;
pub mod teacher_forcing;

pub use driver::run_to_end;
pub use error::ModelError;
pub use kosmos2::{AnnotateError, EncodedQuery, Kosmos2, OpenError, Processor, Query};
pub use progress::Progress;
