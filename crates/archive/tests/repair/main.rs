//! Watching and repairing a pool: status, failures, and an archive compared with its outcomes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

#[path = "../common/mod.rs"]
mod common;
mod failures;
mod permissions;
mod reconcile;
mod status;
