//! The scaler between a real NATS server and a client of KEDA's interface.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

mod fixture;
mod metric;
mod outages;
mod streams;
