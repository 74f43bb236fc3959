//! The program with real servers: workers, submitters and the bulk commands.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

#[path = "../support/mod.rs"]
mod support;

mod bulk;
mod client;
mod connections;
mod enqueue;
mod lame_duck;
mod model_sources;
mod scaler;
mod setup;
mod workers;
