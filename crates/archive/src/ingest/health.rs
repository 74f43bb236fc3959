//! The health of `groundling ingest`.
//!
//! Readiness follows the NATS server only without webhooks. A pod that is not ready gets no requests, so that the store would
//! lose events during an outage that the webhook server can wait out. A subject of a rule that the events stream does not
//! capture is no outage.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use broker::connection::Connection;
use broker::stream_states::StreamStates;
use telemetry::health_server::HealthState;
use telemetry::readings::IngestReading;

/// How long the process's threads may be blocked before it is no longer live.
const BLOCKED: Duration = Duration::from_secs(60);

/// The health of a process. Clones share it.
#[derive(Clone)]
pub(super) struct IngestHealth(Arc<State>);

struct State {
    has_webhook: bool,
    phase: Mutex<Phase>,
    connection: OnceLock<Connection>,
    streams: StreamStates,
    /// Why the events of a rule do not arrive.
    uncaptured: Mutex<Option<String>>,
    /// Why the last pull request failed.
    pull_error: Mutex<Option<String>>,
    heartbeat: Mutex<Instant>,
}

enum Phase {
    Waiting(String),
    Working,
    Stopping,
}

impl IngestHealth {
    pub(super) fn new(has_webhook: bool, streams: StreamStates) -> Self {
        Self(Arc::new(State {
            has_webhook,
            phase: Mutex::new(Phase::Waiting("the process is starting".to_owned())),
            connection: OnceLock::new(),
            streams,
            uncaptured: Mutex::default(),
            pull_error: Mutex::default(),
            heartbeat: Mutex::new(Instant::now()),
        }))
    }

    pub(super) fn set_waiting(&self, reason: impl Into<String>) {
        *locked(&self.0.phase) = Phase::Waiting(reason.into());
    }

    pub(super) fn set_working(&self, connection: Connection) {
        // A process connects only once; afterwards the connection re-establishes itself.
        drop(self.0.connection.set(connection));
        *locked(&self.0.phase) = Phase::Working;
    }

    /// Sets why the events of a rule do not arrive; `None`: they do.
    pub(super) fn set_uncaptured(&self, reason: Option<String>) {
        *locked(&self.0.uncaptured) = reason;
    }

    pub(super) fn set_stopping(&self) {
        *locked(&self.0.phase) = Phase::Stopping;
    }

    /// Records how the last pull request ended. `true` if it is the first that failed in this way.
    pub(super) fn pull_ended(&self, error: Option<String>) -> bool {
        let mut last = locked(&self.0.pull_error);
        let is_news = error.is_some() && *last != error;
        *last = error;
        is_news
    }

    /// What the metrics show. Does not keep the connection alive.
    pub(super) fn reading(&self) -> impl Fn() -> IngestReading + Clone + Send + Sync + use<> {
        let state: Weak<State> = Arc::downgrade(&self.0);
        move || {
            let Some(state) = state.upgrade() else { return IngestReading::default() };
            IngestReading {
                nats_connections: u64::from(state.connection.get().is_some_and(Connection::is_connected)),
                is_ready: Self(Arc::clone(&state)).ready().is_ok(),
                refusing_streams: state.streams.refusing(),
            }
        }
    }
}

impl HealthState for IngestHealth {
    fn started(&self) -> Result<(), String> {
        Ok(())
    }

    fn alive(&self) -> Result<(), String> {
        let blocked = locked(&self.0.heartbeat).elapsed();
        if blocked > BLOCKED {
            return Err(format!("the process's threads have been blocked for {} s", blocked.as_secs()));
        }
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        self.alive()?;
        match &*locked(&self.0.phase) {
            Phase::Waiting(reason) => return Err(reason.clone()),
            Phase::Stopping => return Err("the process is shutting down".to_owned()),
            Phase::Working => {}
        }
        // Also with webhooks: this is a mistake of the configuration, which a rollout must not spread.
        if let Some(reason) = &*locked(&self.0.uncaptured) {
            return Err(reason.clone());
        }
        if self.0.has_webhook {
            return Ok(());
        }
        if !self.0.connection.get().is_some_and(Connection::is_connected) {
            return Err("the connection to NATS is lost".to_owned());
        }
        if let Some(error) = &*locked(&self.0.pull_error) {
            return Err(format!("no events can be taken: {error}"));
        }
        match self.0.streams.refusal_summary() {
            Some(reason) => Err(format!("jobs cannot be stored: {reason}")),
            None => Ok(()),
        }
    }

    fn record_heartbeat(&self) {
        *locked(&self.0.heartbeat) = Instant::now();
    }
}

/// The values are consistent after every operation, so a poisoned lock is safe to use.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
