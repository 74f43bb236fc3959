//! Why telemetry did not start.

use std::path::PathBuf;

use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::error::OTelSdkError;

/// Why telemetry did not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// An exporter does not take its settings.
    #[error("telemetry cannot be exported: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// The file with the collector's authorities.
    #[error("telemetry.ca_file {} cannot be used: {cause}", file.display())]
    CaFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The system has no authorities.
    #[error("the system's certificates cannot be read: install them (package ca-certificates): {0}")]
    NoSystemCertificates(std::io::Error),
    /// The system gave no thread.
    #[error("the thread that exports telemetry cannot be started: {0}")]
    Thread(std::io::Error),
    /// The metrics could not be registered.
    #[error("metrics cannot be served: {0}")]
    Metrics(#[from] OTelSdkError),
}
