//! Reading objects from stores of all kinds.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../fake_store/mod.rs"]
mod fake_store;

mod http;
mod s3;
mod s3_answers;
mod s3_hostile;
mod store_environment;
