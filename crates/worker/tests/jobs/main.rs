//! Jobs from delivery to outcome: attempts, retries, outcomes, fairness.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../fake_store/mod.rs"]
mod fake_store;
#[path = "../hostile/mod.rs"]
mod hostile;

mod attempts;
mod compaction;
mod cursors;
mod decoding;
mod delivery;
mod demo_model;
mod fairness;
mod hostile_jobs;
mod outcomes;
mod own_limits;
mod publish;
mod resubmission;
