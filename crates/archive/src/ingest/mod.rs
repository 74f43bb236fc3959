//! `groundling ingest`: the events of object stores become jobs.
//!
//! An event comes from the events stream or to the webhook server. It is decoded ([`formats`]) to records ([`record`]),
//! the rules of its subject or path select those that become jobs ([`rule`]), and the jobs are published. An event is
//! acknowledged, or its request answered with 200, only after the jobs stream has acknowledged all of its jobs. The id
//! of a job depends on the rule and the state of the object alone, and it is the message's `Nats-Msg-Id`, so a repeated
//! event stores no second job within the stream's duplicate window.

mod error;
pub mod formats;
mod handler;
mod headers;
mod health;
mod overlaps;
mod publisher;
mod pulls;
pub mod record;
pub mod rule;
mod run;
pub mod settings;
mod subjects;
mod webhook;

pub use error::IngestError;
pub use headers::EventHeaders;
pub use run::{Addresses, IngestParts, run};
pub use subjects::stream_subjects;
