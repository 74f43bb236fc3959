//! Groundling on the wire: protobuf messages, NATS subjects, annotation ids, and the rules for jobs that need no model.
//!
//! The crate has no network, no async and no model, so that a client builds it in seconds. What a job may contain is
//! decided by [`job::CheckedJob`]; only what a prompt may say to the model is left to the worker.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod failure;
pub mod identity;
pub mod job;
pub mod options;
mod outline;
pub mod subjects;
mod tasks;

/// The messages of `proto/groundling/v1`, as generated.
pub mod v1 {
    #![allow(missing_docs, rustdoc::invalid_html_tags, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/groundling.v1.rs"));
}

pub use prost::Message;
pub use prost_types;

/// A span of time as protobuf writes it.
pub fn proto_duration(duration: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        // `subsec_nanos` is below 10⁹.
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}
