//! Serves many concurrent requests with one model on one device.
//!
//! The model lives on one thread, the scheduler. Requests reach it through a bounded queue, so that submitters wait
//! while the device is busy. The queue holds one vision batch of preprocessed pictures: the next batch is ready when
//! the vision tower is, and no more memory is used. Every response has a channel of its own.
//!
//! Batching is continuous. The decoder has a fixed number of slots with preallocated memory for the keys and values of
//! one sequence each. Queries join at any step and leave when they finish; [`Admission`] has the rule. The prompts of
//! new queries run in the same pass as the newest tokens of all active queries, without padding. Queries about the same
//! picture share its image embedding and the keys and values of their common prefix.
//!
//! A cancelled request releases its slots at the next step. A failing request does not affect others: when a pass
//! fails, it is repeated for each query alone.
//!
//! ```no_run
//! use engine::{Engine, EngineOptions, Request};
//! use kosmos2::compute::{Compute, DeviceChoice};
//! use kosmos2::options::GenerationOptions;
//! use kosmos2::processor::image::{DecodeOptions, decode};
//! use kosmos2::{Kosmos2, Query};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Kosmos2::open("kosmos-2-patch14-224".as_ref(), &Compute::open(DeviceChoice::Auto, None)?)?;
//! let (engine, thread) = Engine::start(model, EngineOptions::default())?;
//!
//! let picture = decode(&std::fs::read("snowman.png")?, &DecodeOptions::default())?;
//! let pixels = engine.processor().images().pixel_values(&picture);
//! let queries = vec![Query::generate("<grounding> An image of", GenerationOptions::default())];
//! let response = engine.submit(Request { pixels, queries }).await?;
//! println!("{}", response.texts[0].text);
//!
//! drop(engine);
//! thread.join().map_err(|_| "the engine panicked")?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod admission;
mod annotator;
mod engine;
mod options;
mod panics;
mod request;
mod scheduled_request;
mod scheduler;
mod slots;
mod stats;

pub use admission::{Admission, PromptCost};
pub use annotator::{Annotator, ResponseFuture};
pub use engine::Engine;
pub use options::{EngineOptions, KvCapacity, USUAL_SLOTS};
pub use panics::panic_message;
pub use request::{EngineError, Request, Response, Timings};
pub use slots::StartError;
pub use stats::{BatchObserver, EngineSnapshot, Pass};
