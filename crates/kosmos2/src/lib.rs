//! KOSMOS-2 as a library: from a picture and a prompt to grounded text with boxes and scores.
//!
//! It has no network and no async code; the `engine` and `worker` crates add these.
//!
//! ```no_run
//! use kosmos2::compute::{Compute, DeviceChoice};
//! use kosmos2::options::GenerationOptions;
//! use kosmos2::processor::image::{DecodeOptions, decode};
//! use kosmos2::{Kosmos2, Query};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let compute = Compute::open(DeviceChoice::Auto, None)?;
//! let mut model = Kosmos2::open("kosmos-2-patch14-224".as_ref(), &compute)?;
//!
//! let picture = decode(&std::fs::read("snowman.png")?, &DecodeOptions::default())?;
//! let pixels = model.processor().images().pixel_values(&picture);
//! let query = Query::generate("<grounding> An image of", GenerationOptions::default());
//! for text in model.annotate(&pixels, &[query])? {
//!     println!("{}", text.text);
//!     for entity in text.entities {
//!         println!("{}: {:?}", entity.phrase, entity.boxes);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Reference
//! The behaviour is that of Hugging Face transformers 5.23 (`Kosmos2ForConditionalGeneration`, `Kosmos2Processor`,
//! `post_process_generation`). Where releases differ:
//!
//! | subject | this crate | reason |
//! | --- | --- | --- |
//! | attention of the latent queries | no causal mask (5.23; eager attention of all releases) | the default sdpa attention up to 5.17 has a mask by mistake, which the checkpoint was not trained with |
//! | positions of generated tokens in a left-padded batch | the sequence's non-pad tokens are counted (4.35; 5.x without a cache) | 5.x with a cache counts padding too, so that a text depends on its batch |
//! | transparency | composited on white (5.23) | up to 5.17 the alpha channel is dropped, which shows the hidden colours |
//! | orientation of EXIF and XMP | applied (`load_image`), unless disabled | boxes then match the picture as viewers show it |
//! | resizing | as Pillow, not as torchvision | the two differ by one step in 0.1 % to 1 % of the values; Pillow's is older and can be matched bit for bit |
//! | `no_repeat_ngram_size: 3` in the published text config | not applied unless requested (5.x) | 4.x applied it by default; set `no_repeat_ngram_size` to 3 for that |
//! | row 1 (`<pad>`) of the embedding | as stored (5.23) | 5.17 zeroes it after loading, which changes only the logit of `<pad>` |
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod annotate;
pub mod backend;
pub mod checkpoint;
pub mod compute;
pub mod config;
pub mod decoding;
mod error;
pub mod grounding;
mod model;
pub mod options;
pub mod processor;
mod reductions;
mod small_file;

pub use annotate::{AnnotateError, EncodedQuery, Kosmos2, OpenError, Processor, Query};
pub use error::ModelError;
pub use model::{LoadError, Model};
