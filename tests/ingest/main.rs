//! `groundling ingest` with real servers: events of object stores become jobs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

#[path = "../support/mod.rs"]
mod support;

mod env;
mod load;
mod nats;
mod permissions;
mod pipeline;
mod webhook;
