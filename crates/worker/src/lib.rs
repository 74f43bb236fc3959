//! The stream worker: jobs from JetStream, pictures from S3, annotations back to JetStream.
//!
//! A job goes one way, and each stage knows only its neighbours: [`intake`] → [`fetch`] → the engine → [`publish`]. Its
//! [`delivery::Delivery`] travels along as a guard, and [`faults`] holds the one table that says what follows from a
//! fault.
//!
//! What holds at every moment, whatever fails:
//! - a job leaves the queue only after its annotation or its failure is acknowledged by a stream;
//! - both carry ids that come out the same on every delivery, so within the streams' duplicate window neither is there
//!   twice.
#![forbid(unsafe_code)]

pub mod connection;
pub mod delivery;
pub mod events;
pub mod faults;
pub mod fetch;
pub mod intake;
mod job;
pub mod publish;
pub mod settings;
pub mod settings_check;
pub mod setup;
pub mod worker;

pub use events::{Events, JobEvent};
pub use settings::Settings;
pub use worker::{WorkerError, WorkerParts, WorkerReport, run};
