//! Serves [`Health`] and the metrics over HTTP.

use std::net::SocketAddr;

use telemetry::Scraper;
use telemetry::health_server::{self, HealthState};
pub use telemetry::health_server::{CONNECTIONS, HealthAddressError};

use crate::health::Health;
use crate::settings::WorkerSettings;

/// The health server of a worker. It stops when dropped.
#[derive(Debug)]
pub struct HealthServer(health_server::HealthServer);

impl HealthServer {
    /// Starts the server if the settings have an address for it.
    ///
    /// # Errors
    /// [`HealthAddressError`].
    pub fn start_if_set(
        settings: &WorkerSettings,
        health: &Health,
        scraper: Option<&Scraper>,
    ) -> Result<Option<Self>, HealthAddressError> {
        let start = |address| Self::start(address, health.clone(), scraper.cloned());
        settings.health_address.map(start).transpose()
    }

    /// Listens on `address` and starts to answer. Without a `scraper`, metrics are not served. Call it on the worker's
    /// runtime, whose threads it monitors.
    ///
    /// # Errors
    /// [`HealthAddressError`].
    pub fn start(address: SocketAddr, health: Health, scraper: Option<Scraper>) -> Result<Self, HealthAddressError> {
        health_server::HealthServer::start("worker.health_address", address, health, scraper).map(Self)
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

impl HealthState for Health {
    fn started(&self) -> Result<(), String> {
        Self::started(self)
    }

    fn alive(&self) -> Result<(), String> {
        Self::alive(self)
    }

    fn ready(&self) -> Result<(), String> {
        Self::ready(self)
    }

    fn record_heartbeat(&self) {
        Self::record_heartbeat(self);
    }
}
