//! Whether the worker lives and is ready, for whoever runs it: kept up to date by the worker, told over HTTP.
//!
//! `GET /livez` answers 200 while the engine's thread lives and the worker's threads run: anything else is a reason to
//! start the worker anew. `GET /readyz` answers 200 while jobs are taken: the connection stands, streams and consumer are there,
//! intake gets its requests through, no stream refuses what workers write, and nobody has told the worker to end. Otherwise both answer 503 with one line that
//! says why. Readiness comes and goes with the broker; liveness does not.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use engine::Annotator;

use crate::queue::Queue;
use broker::connection::Connection;
use broker::stream_states::StreamStates;

/// How long the worker's threads may be blocked before it does not live any more.
const BLOCKED: Duration = Duration::from_secs(60);

/// What is known of a worker's state. Clones share it.
#[derive(Clone)]
pub struct Health(Arc<Known>);

struct Known {
    engine: Arc<dyn Annotator>,
    connection: OnceLock<Connection>,
    phase: Mutex<Phase>,
    jobs: Mutex<Pulls>,
    retries: Mutex<Pulls>,
    streams: OnceLock<StreamStates>,
    /// When the worker's threads were last seen to run.
    ran: Mutex<Instant>,
}

/// What the intake of one queue has told of its pull requests.
#[derive(Debug, Default)]
struct Pulls {
    /// The number of the connection that the last one went out on.
    asked_on: Option<u64>,
    /// Why the last one that has ended did not get through, if it did not.
    fault: Option<String>,
}

/// How far the worker is, in the order of a worker's life.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// It waits for something outside.
    Waiting(String),
    /// It takes jobs.
    Working,
    /// It takes no more jobs.
    Ending,
}

impl Health {
    /// The state of a worker that has just started.
    pub fn new(engine: Arc<dyn Annotator>) -> Self {
        let phase = Mutex::new(Phase::Waiting("the worker is starting".to_owned()));
        let ran = Mutex::new(Instant::now());
        let (connection, streams) = (OnceLock::new(), OnceLock::new());
        let (jobs, retries) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Known { engine, connection, phase, jobs, retries, streams, ran }))
    }

    /// The same, not ready while one of these streams refuses messages.
    #[must_use]
    pub fn watching(self, streams: StreamStates) -> Self {
        // The first word counts; there is only one.
        drop(self.0.streams.set(streams));
        self
    }

    /// Nothing if it lives, or why not.
    ///
    /// # Errors
    /// One sentence.
    pub fn alive(&self) -> Result<(), String> {
        let blocked = locked(&self.0.ran).elapsed();
        if blocked > BLOCKED {
            return Err(format!("the worker's threads have been blocked for {} s", blocked.as_secs()));
        }
        if self.0.engine.is_alive() { Ok(()) } else { Err("the engine's thread has ended".to_owned()) }
    }

    /// The worker's threads run.
    pub(crate) fn runs(&self) {
        *locked(&self.0.ran) = Instant::now();
    }

    /// Nothing if it takes jobs, or why not.
    ///
    /// # Errors
    /// One sentence.
    pub fn ready(&self) -> Result<(), String> {
        self.alive()?;
        match &*locked(&self.0.phase) {
            Phase::Waiting(reason) => return Err(reason.clone()),
            Phase::Ending => return Err("the worker is shutting down".to_owned()),
            Phase::Working => {}
        }
        match self.0.connection.get() {
            Some(connection) if connection.is_connected() => {
                if locked(&self.0.jobs).asked_on != Some(connection.number()) {
                    return Err("no jobs have been asked for yet since the connection to NATS was made".to_owned());
                }
            }
            _ => return Err("the connection to NATS is lost".to_owned()),
        }
        for (queue, what) in [(Queue::Jobs, "jobs"), (Queue::Retries, "retries")] {
            if let Some(why) = &self.pulls_of(queue).fault {
                return Err(format!("no {what} can be taken: {why}"));
            }
        }
        if let Some(why) = self.0.streams.get().and_then(StreamStates::refusal_summary) {
            return Err(format!("jobs cannot be finished: {why}"));
        }
        Ok(())
    }

    /// The worker cannot go on yet, and why.
    pub(crate) fn waits(&self, reason: impl Into<String>) {
        *locked(&self.0.phase) = Phase::Waiting(reason.into());
    }

    /// The worker takes jobs over this connection.
    pub(crate) fn works(&self, connection: Connection) {
        // A worker connects once; the connection keeps itself up.
        drop(self.0.connection.set(connection));
        *locked(&self.0.phase) = Phase::Working;
    }

    /// The worker takes no more jobs.
    pub(crate) fn ends(&self) {
        *locked(&self.0.phase) = Phase::Ending;
    }

    /// A pull request has gone out on the connection of this number.
    pub(crate) fn pulls(&self, queue: Queue, connection: u64) {
        self.pulls_of(queue).asked_on = Some(connection);
    }

    /// How the last pull request ended.
    pub(crate) fn pulled(&self, queue: Queue, fault: Option<&str>) {
        self.pulls_of(queue).fault = fault.map(str::to_owned);
    }

    fn pulls_of(&self, queue: Queue) -> MutexGuard<'_, Pulls> {
        locked(match queue {
            Queue::Jobs => &self.0.jobs,
            Queue::Retries => &self.0.retries,
        })
    }
}

/// What is kept here is whole at every moment, so a panic elsewhere does no harm to it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
