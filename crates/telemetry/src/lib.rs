//! What an operator sees of the pool: metrics, traces and logs.
//!
//! [`Telemetry::start`] sets up one set of instruments with two readers, Prometheus ([`Scraper`]) and a periodic export to
//! an OpenTelemetry collector, and exports traces ([`JobSpans`]) and logs ([`LogLayer`]) to the same collector. The
//! collector never delays jobs: full queues drop data, and shutdown takes at most 5 s.
//!
//! [`table`] is the list of all instruments. Attributes are types ([`attributes`]), so that no caller misspells them.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod attribute_keys;
pub mod attributes;
pub mod environment;
mod error;
mod export_runtime;
mod export_state;
mod exporters;
pub mod health_server;
mod http_client;
pub mod ingest_attributes;
mod ingest_instruments;
pub mod instruments;
pub mod job_span;
pub mod logs;
pub mod nvidia;
pub mod probe;
pub mod propagation;
pub mod readings;
mod sampler;
pub mod scrape;
pub mod settings;
mod signal;
pub mod stage_span;
pub mod table;
mod telemetry;

pub use error::TelemetryError;
pub use instruments::{InstrumentOptions, Instruments};
pub use job_span::{JobSpan, JobSpans};
pub use logs::LogLayer;
pub use scrape::Scraper;
pub use settings::TelemetrySettings;
pub use telemetry::{ServiceIdentity, Telemetry};
