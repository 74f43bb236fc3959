//! Sources, and feeding them into the jobs stream.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

#[path = "../common/mod.rs"]
mod common;

mod datasets;
mod feed;
mod files;
mod listing;
mod plans;
mod rates;
