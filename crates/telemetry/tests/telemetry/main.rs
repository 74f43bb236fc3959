//! Telemetry as those see it that it is for: Prometheus, and an OpenTelemetry collector.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod collector;
mod docs;
mod everything;
mod exports;
mod faults;
mod jobs;
mod scrape;
mod tls;
mod variables;
