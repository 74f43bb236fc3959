//! A KEDA external-push scaler on the time to drain the backlog of a pool.
//!
//! The metric `drain_seconds` is the time that one worker would take for the backlog: jobs that have not ended, divided by
//! the jobs per second of a worker. KEDA hands it to a HorizontalPodAutoscaler as a value to be averaged over the workers,
//! which computes `replicas = ceil(drain_seconds / target) = ceil(backlog / (jobs per second × target))`: as many workers
//! as drain the backlog within the target.
//!
//! The rate is that of the metadata (`jobsPerSecond`) until it has been measured. An outage of the broker is an error
//! (`UNAVAILABLE`), never a value: KEDA then falls back to the number of replicas that its user chose.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod health;
mod metadata;
mod observation;
mod rate;
mod server;
mod service;

/// KEDA's interface, generated.
#[allow(missing_docs, clippy::all, reason = "generated code")]
pub mod external_scaler {
    tonic::include_proto!("externalscaler");
}

/// gRPC's health interface, generated.
#[allow(missing_docs, clippy::all, reason = "generated code")]
pub mod grpc_health {
    tonic::include_proto!("grpc.health.v1");
}

pub use metadata::{JOBS_PER_SECOND, TARGET_DRAIN_SECONDS};
pub use observation::{Observer, Timing};
pub use server::serve;
pub use service::METRIC;
