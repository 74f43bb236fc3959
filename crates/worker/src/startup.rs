//! Connects to the broker and checks its streams and consumers before a worker takes jobs.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use broker::backoff::{Backoff, Delays};
use broker::connection::{self, Connection};
use broker::setup::{self, Broker};

use crate::health::Health;
use crate::settings::Settings;
use crate::worker_error::WorkerError;

/// Delays between checks of the streams if JetStream does not respond.
const CHECK_AGAIN: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));

/// What a worker needs from the broker.
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    pub(crate) jetstream: async_nats::jetstream::Context,
    pub(crate) jobs: PullConsumer,
    /// `None` if the server has no consumer of urgent jobs.
    pub(crate) urgent: Option<PullConsumer>,
    pub(crate) retries: PullConsumer,
    pub(crate) advisories: PullConsumer,
}

/// Waits until the broker responds, and for a leader if it is a cluster.
///
/// # Errors
/// [`WorkerError`], for an error that waiting does not resolve.
pub(crate) async fn open(settings: &Settings, worker_id: &str, health: &Health) -> Result<Opened, WorkerError> {
    let name = format!("groundling worker {worker_id}");
    let connection = connection::connect_with_retries(&settings.nats, &name, |error| {
        health.set_waiting(error.to_string());
        tracing::warn!("{error}; retrying until the NATS server responds");
    })
    .await?;
    let (jetstream, broker) =
        (connection::jetstream(&connection.client, &settings.nats), connection.broker(&settings.nats));
    let (mut delays, mut logged) = (Delays::of(CHECK_AGAIN), String::new());
    let ([jobs, retries, advisories], urgent) = loop {
        let error = match ready_consumers(&broker, settings).await {
            Err(WorkerError::Setup(error)) if error.is_temporary() => error.to_string(),
            ended => break ended?,
        };
        health.set_waiting(error.clone());
        if error != logged {
            tracing::warn!("{error}; retrying");
            logged = error;
        }
        tokio::time::sleep(delays.after_failure()).await;
    };
    Ok(Opened { connection, jetstream, jobs, urgent, retries, advisories })
}

/// The consumers of jobs, of retries and of advisories, and that of urgent jobs if there is one.
async fn ready_consumers(
    broker: &Broker,
    settings: &Settings,
) -> Result<([PullConsumer; 3], Option<PullConsumer>), WorkerError> {
    let found = setup::check(broker.clone(), &settings.streams).await?;
    if !found.missing.is_empty() {
        return Err(WorkerError::Missing(found.missing.join(", ")));
    }
    if !found.errors.is_empty() {
        return Err(WorkerError::UnsafeStreams(found.errors.join("\n")));
    }
    for difference in found.differences {
        tracing::warn!("the server differs from the settings, which does not stop the worker: {difference}");
    }
    let missing =
        |stream: &str| WorkerError::Missing(format!("consumer {} of the stream {stream}", settings.streams.consumer));
    let streams = &settings.streams;
    let jobs = setup::find_consumer(broker.clone(), streams).await?.ok_or_else(|| missing(&streams.jobs))?;
    let retries =
        setup::find_retries_consumer(broker.clone(), streams).await?.ok_or_else(|| missing(&streams.retries))?;
    let advisories =
        setup::find_advisory_consumer(broker.clone(), streams).await?.ok_or_else(|| missing(&streams.advisories))?;
    let urgent = setup::find_urgent_consumer(broker.clone(), streams).await?;
    Ok(([jobs, retries, advisories], urgent))
}
