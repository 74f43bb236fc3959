//! Why a worker did not start, or stopped on its own.

use std::time::Duration;

use broker::connection::ConnectionError;
use broker::setup::SetupError;

use crate::descriptors::TooFewDescriptors;
use crate::fetch::s3::CaFileError;
use crate::health_server::HealthAddressError;
use crate::report::WorkerReport;
use crate::settings_validation::InvalidSettings;

/// Why a worker did not start, or stopped on its own.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The settings are invalid. The text includes all problems, so they are not a source.
    #[error("the settings are invalid:\n{0}")]
    Settings(InvalidSettings),
    /// The file of `s3.ca_file` cannot be used.
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    /// The health server cannot listen on its address.
    #[error(transparent)]
    HealthAddress(#[from] HealthAddressError),
    /// The limit of open files is too low.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
    /// There is no connection to NATS.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The streams and consumers could not be checked.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A stream or consumer does not exist. Workers create none.
    #[error("the NATS server has no {0}: run `groundling setup` to create what is missing")]
    Missing(String),
    /// Settings of streams or consumers that break the delivery guarantee, one on each line.
    #[error("the delivery guarantee does not hold with the streams and consumers on the NATS server:\n{0}")]
    UnsafeStreams(String),
    /// The server has refused the worker's credentials for as long as `nats.refused_timeout`. Its active jobs are
    /// redelivered.
    #[error(
        "the NATS server has refused this worker's credentials for {0:?} (nats.refused_timeout): restart the worker with valid credentials"
    )]
    CredentialsRefused(Duration),
    /// The engine has stopped. The worker's active jobs were nacked.
    #[error(
        "the engine has stopped, so the worker has stopped too; its jobs will be delivered again: restart the worker"
    )]
    EngineStopped(WorkerReport),
}

impl From<InvalidSettings> for WorkerError {
    fn from(problems: InvalidSettings) -> Self {
        Self::Settings(problems)
    }
}
