//! The worker's liveness and readiness, updated by the worker and served over HTTP.
//!
//! `GET /livez` answers 200 while the engine's thread and the worker's threads run; otherwise the worker should be
//! restarted. `GET /readyz` answers 200 while the worker takes jobs: it is connected, the streams and the consumer
//! exist, pull requests succeed, no stream refuses what workers write, and the worker is not shutting down. Otherwise
//! both answer 503 with the reason in one line. Readiness follows the broker; liveness does not.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use engine::Annotator;

use crate::queue::ConsumerKind;
use broker::connection::Connection;
use broker::stream_states::StreamStates;

/// How long the worker's threads may be blocked before the worker is no longer live.
const BLOCKED: Duration = Duration::from_secs(60);

/// A worker's health. Clones share it.
#[derive(Clone)]
pub struct Health(Arc<State>);

struct State {
    engine: Arc<dyn Annotator>,
    connection: OnceLock<Connection>,
    phase: Mutex<Phase>,
    jobs: Mutex<Pulls>,
    urgent: Mutex<Pulls>,
    retries: Mutex<Pulls>,
    streams: OnceLock<StreamStates>,
    /// When the worker's threads last reported that they run.
    heartbeat: Mutex<Instant>,
}

/// Tells whether the connection to NATS is up, without keeping it open. Clones share it.
#[derive(Clone)]
pub(crate) struct ConnectionState(Weak<State>);

impl ConnectionState {
    pub(crate) fn is_up(&self) -> bool {
        self.0.upgrade().is_some_and(|state| state.connection.get().is_some_and(Connection::is_connected))
    }
}

/// What the intake of one queue has reported about its pull requests.
#[derive(Debug, Default)]
struct Pulls {
    /// The number of the connection that the last request was sent on.
    sent_on: Option<u64>,
    /// Why the last request that has ended failed.
    error: Option<String>,
}

/// The phases of a worker's life, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// It cannot take jobs yet, with the reason.
    Waiting(String),
    /// It takes jobs.
    Working,
    /// It is shutting down.
    Stopping,
}

impl Health {
    /// The health of a worker that is starting.
    pub fn new(engine: Arc<dyn Annotator>) -> Self {
        let phase = Mutex::new(Phase::Waiting("the worker is starting".to_owned()));
        let heartbeat = Mutex::new(Instant::now());
        let (connection, streams) = (OnceLock::new(), OnceLock::new());
        let (jobs, urgent, retries) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self(Arc::new(State { engine, connection, phase, jobs, urgent, retries, streams, heartbeat }))
    }

    /// The same health, which is not ready while one of these streams refuses messages.
    #[must_use]
    pub fn with_stream_states(self, streams: StreamStates) -> Self {
        // Set only once.
        drop(self.0.streams.set(streams));
        self
    }

    /// Whether the worker is live.
    ///
    /// # Errors
    /// Why it is not, in one sentence.
    pub fn alive(&self) -> Result<(), String> {
        let blocked = locked(&self.0.heartbeat).elapsed();
        if blocked > BLOCKED {
            return Err(format!("the worker's threads have been blocked for {} s", blocked.as_secs()));
        }
        if self.0.engine.is_alive() { Ok(()) } else { Err("the engine's thread has ended".to_owned()) }
    }

    /// Whether the worker takes jobs and can finish them.
    ///
    /// # Errors
    /// Why it does not, in one sentence.
    pub fn ready(&self) -> Result<(), String> {
        self.alive()?;
        match &*locked(&self.0.phase) {
            Phase::Waiting(reason) => return Err(reason.clone()),
            Phase::Stopping => return Err("the worker is shutting down".to_owned()),
            Phase::Working => {}
        }
        match self.0.connection.get() {
            Some(connection) if connection.is_connected() => {
                if locked(&self.0.jobs).sent_on != Some(connection.number()) {
                    return Err("no jobs have been requested yet since the connection to NATS was made".to_owned());
                }
            }
            _ => return Err("the connection to NATS is lost".to_owned()),
        }
        let kinds =
            [(ConsumerKind::Jobs, "jobs"), (ConsumerKind::Urgent, "urgent jobs"), (ConsumerKind::Retries, "retries")];
        for (kind, what) in kinds {
            if let Some(error) = &self.pulls_of(kind).error {
                return Err(format!("no {what} can be taken: {error}"));
            }
        }
        if let Some(reason) = self.0.streams.get().and_then(StreamStates::refusal_summary) {
            return Err(format!("jobs cannot be finished: {reason}"));
        }
        Ok(())
    }

    pub(crate) fn connection_state(&self) -> ConnectionState {
        ConnectionState(Arc::downgrade(&self.0))
    }

    /// Records that the worker's threads run.
    pub(crate) fn record_heartbeat(&self) {
        *locked(&self.0.heartbeat) = Instant::now();
    }

    /// Records that the worker cannot take jobs yet, and why.
    pub(crate) fn set_waiting(&self, reason: impl Into<String>) {
        *locked(&self.0.phase) = Phase::Waiting(reason.into());
    }

    /// Records that the worker takes jobs over this connection.
    pub(crate) fn set_working(&self, connection: Connection) {
        // A worker connects only once; afterwards the connection re-establishes itself.
        drop(self.0.connection.set(connection));
        *locked(&self.0.phase) = Phase::Working;
    }

    /// Records that the worker is shutting down.
    pub(crate) fn set_stopping(&self) {
        *locked(&self.0.phase) = Phase::Stopping;
    }

    /// Records that a pull request was sent on the connection with this number.
    pub(crate) fn pull_sent(&self, kind: ConsumerKind, connection: u64) {
        self.pulls_of(kind).sent_on = Some(connection);
    }

    /// Records how the last pull request ended.
    pub(crate) fn pull_ended(&self, kind: ConsumerKind, error: Option<&str>) {
        self.pulls_of(kind).error = error.map(str::to_owned);
    }

    fn pulls_of(&self, kind: ConsumerKind) -> MutexGuard<'_, Pulls> {
        locked(match kind {
            ConsumerKind::Jobs => &self.0.jobs,
            ConsumerKind::Urgent => &self.0.urgent,
            ConsumerKind::Retries => &self.0.retries,
        })
    }
}

/// The values are consistent after every operation, so a poisoned lock is safe to use.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
