//! The streams and the server: configurations, bounds, permissions, clocks.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod changed_streams;
mod clock;
mod domains;
mod permissions;
mod security;
mod setup;
mod storage;
