//! The wire: protobuf messages, subjects, annotation ids, and the way between them and `kosmos2`'s types.
//!
//! Leaf crate without network and async. What is legal in a job is decided here and nowhere else: [`job::CheckedJob`].
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod identity;
pub mod job;
mod options;
mod outline;
pub mod result;
pub mod subjects;
mod tasks;

/// The messages of `proto/groundling/v1`, as generated.
pub mod v1 {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/groundling.v1.rs"));
}

pub use prost::Message;
pub use prost_types;
