//! Model sources: a local directory, a repository of the Hugging Face hub (`hf://owner/name@revision`), or a prefix of an
//! S3 store (`s3://bucket/prefix`).
//!
//! Downloads go to a cache in the layout of the hub's own tools. A file gets its final name only when all of it is there
//! and its digest is right, and a model is used only with the manifest that is written after its last file. A download
//! that was interrupted goes on where it stopped. Processes that share a cache download a model once.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod cache;
mod digest;
mod download;
mod environment;
mod error;
mod files;
mod hub;
mod hub_answer;
mod hub_client;
mod manifest;
mod progress;
mod remote;
mod s3;
mod source;
mod supply;
mod writer;

pub use environment::Environment;
pub use error::{ModelError, ModelErrorKind};
pub use progress::DownloadProgress;
pub use source::{HubModel, ModelSource, S3Model};
pub use supply::{Availability, Supply};
