//! Why `groundling ingest` ends early.

use std::net::SocketAddr;

use broker::connection::ConnectionError;
use broker::setup::SetupError;
use telemetry::health_server::HealthAddressError;

/// Why `groundling ingest` could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// No connection can be made.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The streams cannot be read.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A stream or consumer does not exist.
    #[error("the {0} does not exist: run `groundling setup`")]
    Missing(String),
    /// A stream or consumer has a setting with which events or jobs would be lost.
    #[error("events could be lost: {0}")]
    Unsafe(String),
    /// The health server cannot listen.
    #[error(transparent)]
    HealthAddress(#[from] HealthAddressError),
    /// The webhook server cannot listen.
    #[error("cannot listen on events.webhook_address {address}: {cause}; set it to a free address of this machine")]
    WebhookAddress {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The server no longer accepts the credentials.
    #[error("the NATS server has rejected the credentials for {0:?}: replace them and start again")]
    CredentialsRefused(std::time::Duration),
}
