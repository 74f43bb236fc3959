//! Watches the pool: whether it has work, and how fast its workers are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use archive::load::Backlog;
use archive::pool::{Pool, PoolError};
use broker::connection::{self, Connection, ConnectionError};
use broker::settings::{NatsSettings, StreamSettings};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::rate::{Busy, Meter, Sample};

/// How often the pool is polled and its rate measured.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// The time between two polls of the backlog, after which a stream reports that there is work.
    pub poll: Duration,
    /// The time between two measurements of the rate.
    pub measure: Duration,
    /// The shortest time over which the rate is measured.
    pub min_span: Duration,
    /// The longest time over which the rate is measured.
    pub max_span: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { poll: seconds(2), measure: seconds(10), min_span: seconds(30), max_span: seconds(60) }
    }
}

/// Watches a pool. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Observer(Arc<State>);

#[derive(Debug)]
struct State {
    /// The pool, or why there is no connection.
    pool: watch::Sender<Result<(Connection, Pool), String>>,
    /// Whether there is work; `None` before the first answer of the broker.
    active: watch::Sender<Option<bool>>,
    meter: Mutex<Meter>,
    timing: Timing,
}

impl Observer {
    /// An observer without a connection. [`Observer::run`] makes one.
    pub fn new(timing: Timing) -> Self {
        Self(Arc::new(State {
            pool: watch::channel(Err("the connection to NATS is being made".to_owned())).0,
            active: watch::channel(None).0,
            meter: Mutex::new(Meter::new(timing.min_span, timing.max_span)),
            timing,
        }))
    }

    /// Connects, waiting for a server if none answers, and watches the pool. Does not return without an error.
    ///
    /// # Errors
    /// [`ConnectionError`] if another attempt to connect cannot succeed.
    pub async fn run(&self, nats: &NatsSettings, streams: &StreamSettings) -> Result<(), ConnectionError> {
        let connection = connection::connect_with_retries(nats, "groundling scaler", |error| {
            drop(self.0.pool.send_replace(Err(error.to_string())));
            tracing::warn!("{error}; retrying until the NATS server responds");
        })
        .await?;
        let pool = Pool::of_connection(&connection, nats, streams.clone());
        drop(self.0.pool.send_replace(Ok((connection, pool))));
        let mut ticks = tokio::time::interval(self.0.timing.poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut measured, mut logged, mut unmeasured) = (Instant::now(), String::new(), String::new());
        loop {
            ticks.tick().await;
            match self.backlog().await {
                Ok(backlog) => {
                    if !logged.is_empty() {
                        tracing::info!(jobs = backlog.total(), "the backlog can be read again");
                        logged.clear();
                    }
                    if measured.elapsed() >= self.0.timing.measure {
                        measured = Instant::now();
                        self.measure(streams, &backlog, &mut unmeasured).await;
                    }
                }
                Err(error) => {
                    self.meter(Meter::interrupt);
                    if error != logged {
                        tracing::warn!("{error}; KEDA is told that the metric is unavailable");
                        logged = error;
                    }
                }
            }
        }
    }

    /// The backlog now. An error is a sentence.
    pub(crate) async fn backlog(&self) -> Result<Backlog, String> {
        let (connection, pool) = self.0.pool.borrow().clone()?;
        if !connection.is_connected() {
            return Err("there is no connection to NATS: check nats.url, and that the server runs".to_owned());
        }
        let backlog = pool.backlog().await.map_err(|error| error.to_string())?;
        let is_active = backlog.total() > 0;
        self.0.active.send_if_modified(|active| active.replace(is_active) != Some(is_active));
        Ok(backlog)
    }

    /// Whether there is work, as it changes.
    pub(crate) fn active(&self) -> watch::Receiver<Option<bool>> {
        self.0.active.subscribe()
    }

    /// Jobs per second of a worker; `None` until they are measured.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.meter(|meter| meter.rate())
    }

    fn meter<T>(&self, with: impl FnOnce(&mut Meter) -> T) -> T {
        with(&mut self.0.meter.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Measures the rate if workers have been busy for long enough.
    async fn measure(&self, streams: &StreamSettings, backlog: &Backlog, logged: &mut String) {
        let (connection, pool) = match &*self.0.pool.borrow() {
            Ok((connection, pool)) => (connection.clone(), pool.clone()),
            Err(_) => return,
        };
        let (annotations, failed) = (streams.annotations.clone(), streams.failed.clone());
        let denied = connection
            .permission_violations()
            .next(move |violation| violation.is_about_stream(&annotations) || violation.is_about_stream(&failed));
        let measured = tokio::select! {
            biased;
            measured = self.measure_in(&pool, backlog) => measured.map_err(|error| error.to_string()),
            // A denied request would hold up the polls until its timeout.
            violation = denied => Err(format!("{violation}: add it to the user's permissions")),
        };
        match measured {
            Ok(Some(rate)) => {
                logged.clear();
                tracing::debug!(jobs_per_second = rate, "measured the rate of a worker");
            }
            Ok(None) => {}
            Err(error) => {
                self.meter(Meter::interrupt);
                if error != *logged {
                    tracing::warn!(
                        "the rate of a worker cannot be measured, so the last one or jobsPerSecond is used: {error}"
                    );
                    *logged = error;
                }
            }
        }
    }

    async fn measure_in(&self, pool: &Pool, backlog: &Backlog) -> Result<Option<f64>, PoolError> {
        let sample = Sample { at: Instant::now(), ended: pool.outcomes().await?, waiting: backlog.waiting };
        let Some(busy) = self.meter(|meter| meter.add(sample)) else { return Ok(None) };
        let Some(workers) = workers(pool, busy).await? else { return Ok(None) };
        self.meter(|meter| meter.measured(busy, workers));
        Ok(self.rate())
    }
}

/// The workers of a busy time; `None` if their number changed meanwhile or is not known exactly.
async fn workers(pool: &Pool, busy: Busy) -> Result<Option<u64>, PoolError> {
    let now = pool.now().await?;
    let (start, middle) = (now - busy.time, now - busy.time / 2);
    let (early, late) = (pool.workers(start, middle).await?, pool.workers(middle, now).await?);
    let is_known = !early.at_least && !late.at_least && early.seen == late.seen;
    Ok(is_known.then_some(late.seen))
}
