//! What Prometheus scrapes, and what an OpenTelemetry collector receives.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod collector;
mod docs;
mod everything;
mod exports;
mod faults;
mod jobs;
mod nats;
mod scrape;
mod tls;
mod variables;
