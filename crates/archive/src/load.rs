//! How much work a pool has, and how much it has done.

use async_nats::jetstream::consumer::PullConsumer;
use broker::{server_time, setup};
use time::OffsetDateTime;
use wire::subjects::ANNOTATIONS_WILDCARD;

use crate::pool::{Pool, PoolError};
use crate::status::{Workers, workers_between};

/// The jobs that have not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Jobs and urgent jobs that no worker has.
    pub waiting: u64,
    /// Jobs and urgent jobs that a worker has.
    pub in_flight: u64,
    /// Retries, and jobs that reached `streams.max_deliver` and have not been recorded as failures.
    pub retries: u64,
}

impl Backlog {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.waiting + self.in_flight + self.retries
    }
}

impl Pool {
    /// The jobs that have not ended, from the state of the consumers.
    ///
    /// # Errors
    /// [`PoolError::NoConsumer`] if a consumer does not exist, and if the server does not answer.
    pub async fn backlog(&self) -> Result<Backlog, PoolError> {
        let (broker, streams) = (&self.broker, &self.streams);
        let failed = |error| PoolError::broker("reading the consumers", &error);
        let missing = |consumer: &str, stream: &str| PoolError::NoConsumer {
            consumer: consumer.to_owned(),
            stream: stream.to_owned(),
        };
        let jobs = setup::find_consumer(broker, streams).await.map_err(failed)?;
        let jobs = jobs.ok_or_else(|| missing(&streams.consumer, &streams.jobs))?;
        let retries = setup::find_retries_consumer(broker, streams).await.map_err(failed)?;
        let retries = retries.ok_or_else(|| missing(&streams.consumer, &streams.retries))?;
        // Urgent jobs can wait without their consumer, which would be a backlog of 0.
        let urgent = setup::find_urgent_consumer(broker, streams).await.map_err(failed)?;
        let urgent = urgent.ok_or_else(|| missing(&streams.urgent_consumer(), &streams.jobs))?;
        let mut backlog = Backlog::default();
        for (waiting, in_flight) in [&jobs, &urgent].map(counts) {
            backlog.waiting += waiting;
            backlog.in_flight += in_flight;
        }
        let (waiting, in_flight) = counts(&retries);
        backlog.retries = waiting + in_flight;
        if streams.max_deliver > 0 {
            let advisories = setup::find_advisory_consumer(broker, streams).await.map_err(failed)?;
            let (waiting, in_flight) =
                counts(&advisories.ok_or_else(|| missing(&streams.consumer, &streams.advisories))?);
            backlog.retries += waiting + in_flight;
        }
        Ok(backlog)
    }

    /// The annotations and failures that were ever stored. Removing some does not change it.
    ///
    /// # Errors
    /// [`PoolError`] if a stream does not exist, or the server does not answer.
    pub async fn outcomes(&self) -> Result<u64, PoolError> {
        let mut outcomes = 0;
        for name in [&self.streams.annotations, &self.streams.failed] {
            outcomes += self.stream(name).await?.cached_info().state.last_sequence;
        }
        Ok(outcomes)
    }

    /// The time of the server.
    ///
    /// # Errors
    /// [`PoolError`] if the server does not answer.
    pub async fn now(&self) -> Result<OffsetDateTime, PoolError> {
        let now = server_time::now(&self.jetstream, &self.streams.annotations).await;
        now.map_err(|error| PoolError::broker("reading the server's time", error.as_ref()))
    }

    /// The workers that published an annotation from `from` until before `until`, which are times of the server.
    ///
    /// # Errors
    /// [`PoolError`] if the annotations cannot be read.
    pub async fn workers(&self, from: OffsetDateTime, until: OffsetDateTime) -> Result<Workers, PoolError> {
        workers_between(&self.annotations, ANNOTATIONS_WILDCARD, from, until).await
    }
}

/// Messages that wait, and those that were delivered and are not acknowledged. Both are as of the request that found the
/// consumer.
fn counts(consumer: &PullConsumer) -> (u64, u64) {
    let info = consumer.cached_info();
    (info.num_pending, info.num_ack_pending as u64)
}
