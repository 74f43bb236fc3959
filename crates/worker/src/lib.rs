//! The stream worker: takes jobs from JetStream, reads their pictures from S3, runs the model and publishes
//! annotations.
//!
//! A job passes through these stages: [`intake`], [`fetch`], the engine, and `settle`, which records its outcome,
//! publishes it and acknowledges the job. A [`delivery::Delivery`] accompanies the job as a guard: if it is dropped,
//! the job is delivered again. [`faults`] holds the table from fault to policy.
//!
//! **Every job that the jobs stream has acknowledged ends as exactly one annotation or exactly one failure**, even if
//! workers, NATS servers or the S3 store crash. `docs/delivery.md` explains the rules behind this guarantee, its
//! limits, fairness between datasets, the storage that streams need, and what jobs and stores cannot do to a worker.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod active_jobs;
mod advisories;
pub mod annotation;
pub mod attempts;
pub mod byte_budget;
mod circuit_breaker;
mod compaction;
mod consumer_monitor;
mod decoding;
pub mod delivery;
pub mod delivery_info;
mod descriptors;
pub mod engine_watch;
pub mod events;
mod failure;
pub mod faults;
pub mod fetch;
mod followed_connection;
pub mod health;
pub mod health_server;
pub mod intake;
mod job;
mod job_loop;
mod job_summary;
mod job_telemetry;
mod left_to_others;
pub mod model_job;
mod outcome_publisher;
pub mod outcomes;
pub mod pool_limits;
mod pull_response;
pub mod queue;
mod read_monitor;
pub mod report;
mod retries;
pub mod settings;
pub mod settings_validation;
mod settle;
pub mod signals;
mod slots;
mod slow_reads;
mod startup;
mod suspension;
mod telemetry_words;
pub mod worker;
pub mod worker_error;
pub mod worker_telemetry;

pub use events::{Events, JobEvent, Step};
pub use report::WorkerReport;
pub use settings::Settings;
pub use worker::{WorkerParts, run, run_with_health};
pub use worker_error::WorkerError;
pub use worker_telemetry::WorkerTelemetry;
