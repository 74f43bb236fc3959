//! What a pool is doing: how far sources have been read, what waits, what is done and failed, how fast, and at what cost.
//!
//! No stream is read as a whole. Counts are those that the server keeps for each subject; rates are differences of its
//! counts at several times ([`broker::direct`]); workers are seen in samples of the annotations.

mod feeding;
mod in_flight;
mod rates;
mod report;
mod worker_time;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_nats::jetstream::stream::{Info, RawMessageErrorKind, Stream};
use broker::direct::Start;
use broker::read::StoredMessage;
use time::{Duration, OffsetDateTime};
use wire::Message;
use wire::subjects::{
    ANNOTATIONS_WILDCARD, Dataset, FAILED_WILDCARD, JOBS_WILDCARD, RETRIES_WILDCARD, URGENT_WILDCARD, dataset_of,
    dataset_token, failed_tokens,
};
use wire::v1::ImageAnnotation;

use crate::pool::{Pool, PoolError, subjects};
pub use report::{Cost, DatasetStatus, Interval, Rates, SourceStatus, Status, Total, Workers};
pub(crate) use worker_time::workers as workers_between;

/// The time within which workers must have published an annotation to be counted.
const WORKERS_SEEN_IN: Duration = Duration::minutes(1);
/// The time after which jobs that wait while none ends are stalled.
pub const STALLED_AFTER: Duration = Duration::minutes(5);
/// The name under which failures without a reason in their subject are counted.
const UNKNOWN_REASON: &str = "unknown";

/// Reads the status of a pool. Keeps what cannot change from one reading to the next.
#[derive(Debug)]
pub struct StatusReader {
    pool: Pool,
    datasets: Vec<Dataset>,
    price_per_hour: Option<f64>,
    cursors: feeding::Cache,
    worker_time: worker_time::Cache,
}

/// The counts of all datasets.
#[derive(Debug, Default)]
struct Counted {
    queued: HashMap<String, u64>,
    retrying: HashMap<String, u64>,
    done: HashMap<String, u64>,
    failed: HashMap<String, BTreeMap<String, u64>>,
}

impl StatusReader {
    /// Reads the status of these datasets, or of all if there are none. `price_per_hour` is what an hour of one worker
    /// costs.
    pub fn new(pool: Pool, datasets: Vec<Dataset>, price_per_hour: Option<f64>) -> Self {
        Self { pool, datasets, price_per_hour, cursors: Default::default(), worker_time: Default::default() }
    }

    /// Reads the status as of now.
    ///
    /// # Errors
    /// [`PoolError`] if a stream does not exist, or the server does not answer.
    pub async fn read(&mut self) -> Result<Status, PoolError> {
        let streams = self.pool.streams.clone();
        let jobs = self.pool.stream(&streams.jobs).await?;
        let now = self.pool.now().await?;
        let counted = self.count().await?;
        let planned = feeding::planned(&jobs).await?;
        let in_flight = in_flight::in_flight(&jobs, &streams).await?;
        let mut datasets = Vec::new();
        for dataset in self.names(&counted, &planned) {
            let name = dataset.as_str();
            let source = match planned.contains(&dataset) {
                true => feeding::source(&jobs, &dataset, now, &mut self.cursors).await?,
                false => None,
            };
            let queued = counted.queued.get(name).copied().unwrap_or(0);
            let is_only = counted.queued.len() == usize::from(queued > 0);
            // A job that was delivered after the jobs were counted is not waiting.
            let in_flight = in_flight.of(name, is_only).map(|jobs| jobs.min(queued));
            let by_reason = counted.failed.get(name).cloned().unwrap_or_default();
            let mut status = DatasetStatus {
                dataset: name.to_owned(),
                queued,
                waiting: in_flight.map(|in_flight| queued - in_flight),
                in_flight,
                retrying: counted.retrying.get(name).copied().unwrap_or(0),
                done: counted.done.get(name).copied().unwrap_or(0),
                failed: by_reason.values().sum(),
                failed_by_reason: by_reason,
                source,
                ..DatasetStatus::default()
            };
            self.measure(&dataset, &mut status, now).await?;
            status.stalled = queued > 0 && self.is_stalled(&jobs, &dataset, &status.images_per_second, now).await?;
            datasets.push(status);
        }
        let total = (datasets.len() > 1).then(|| Total::of(&datasets));
        Ok(Status { datasets, total })
    }

    /// Whether no job has ended for [`STALLED_AFTER`], and the first one in the stream is as old.
    async fn is_stalled(
        &self,
        jobs: &Stream<Info>,
        dataset: &Dataset,
        rates: &Rates,
        now: OffsetDateTime,
    ) -> Result<bool, PoolError> {
        let since = now - STALLED_AFTER;
        // The rate is unknown without annotations, and in the second after the first one.
        let is_annotated = match rates.five_minutes {
            Some(rate) => rate > 0.0,
            None => self.pool.annotations.count(&dataset.annotations_subject(), Start::Time(since)).await? > 0,
        };
        if is_annotated {
            return Ok(false);
        }
        for failed in [dataset.failed_wildcard(), dataset.failed_subject_without_reason()] {
            if self.pool.failed.count(&failed, Start::Time(since)).await? > 0 {
                return Ok(false);
            }
        }
        for subject in [dataset.jobs_subject(), dataset.urgent_subject()] {
            match jobs.raw_message_builder().sequence(1).next_by_subject(subject).send().await {
                Ok(first) if first.time <= since => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {}
                Err(error) => return Err(PoolError::broker("reading the first job", &error)),
            }
        }
        Ok(false)
    }

    /// The datasets that are told about, by name.
    fn names(&self, counted: &Counted, planned: &[Dataset]) -> Vec<Dataset> {
        if !self.datasets.is_empty() {
            return self.datasets.clone();
        }
        let Counted { queued, retrying, done, failed } = counted;
        let names = queued.keys().chain(retrying.keys()).chain(done.keys()).chain(failed.keys());
        let mut found: BTreeSet<Dataset> = names.filter_map(|name| name.parse().ok()).collect();
        found.extend(planned.iter().cloned());
        found.into_iter().collect()
    }

    async fn count(&self) -> Result<Counted, PoolError> {
        let streams = &self.pool.streams;
        let mut counted = Counted::default();
        let jobs = self.pool.stream(&streams.jobs).await?;
        for filter in [JOBS_WILDCARD, URGENT_WILDCARD] {
            for (subject, messages) in subjects(&jobs, filter).await? {
                if let Some(dataset) = dataset_token(&subject) {
                    *counted.queued.entry(dataset.to_owned()).or_default() += messages;
                }
            }
        }
        let retries = self.pool.stream(&streams.retries).await?;
        if retries.cached_info().state.messages > 0 {
            // Each retry has a subject of its own.
            let filters: Vec<String> = match &self.datasets[..] {
                [] => vec![RETRIES_WILDCARD.to_owned()],
                datasets => datasets.iter().map(Dataset::retries_subject).collect(),
            };
            for filter in filters {
                for (subject, messages) in subjects(&retries, &filter).await? {
                    if let Some(dataset) = dataset_of(&subject) {
                        *counted.retrying.entry(dataset.to_owned()).or_default() += messages;
                    }
                }
            }
        }
        for (subject, messages) in
            subjects(&self.pool.stream(&streams.annotations).await?, ANNOTATIONS_WILDCARD).await?
        {
            if let Some(dataset) = dataset_of(&subject) {
                *counted.done.entry(dataset.to_owned()).or_default() += messages;
            }
        }
        for (subject, messages) in subjects(&self.pool.stream(&streams.failed).await?, FAILED_WILDCARD).await? {
            if let Some((dataset, reason)) = failed_tokens(&subject) {
                let by_reason = counted.failed.entry(dataset.to_owned()).or_default();
                *by_reason.entry(reason.unwrap_or(UNKNOWN_REASON).to_owned()).or_default() += messages;
            }
        }
        Ok(counted)
    }

    /// Adds rates, time left, workers and cost.
    async fn measure(
        &mut self,
        dataset: &Dataset,
        status: &mut DatasetStatus,
        now: OffsetDateTime,
    ) -> Result<(), PoolError> {
        let (annotations, subject) = (&self.pool.annotations, dataset.annotations_subject());
        let first = annotations.batch(&subject, Start::Sequence(1), 1).await?;
        if let Some(first) = first.messages.first() {
            status.images_per_second = rates::rates(annotations, &subject, first.published, now).await?;
            let recent =
                worker_time::workers(annotations, &subject, now - WORKERS_SEEN_IN, now + Duration::DAY).await?;
            status.workers = Some(recent);
            let last = self.last_annotation(&subject).await?.unwrap_or(first.published);
            let device_seconds = worker_time::device_seconds(
                annotations,
                &subject,
                began(first),
                last.max(first.published),
                now,
                &mut self.worker_time,
            )
            .await?;
            status.device_seconds = Some(device_seconds);
            status.cost = self.price_per_hour.map(|price| cost(price, device_seconds, status.done));
        }
        let is_all = status.source.as_ref().is_none_or(|source| source.total_jobs.is_some());
        status.eta_seconds = rates::time_left(status.queued + status.retrying, is_all, &status.images_per_second);
        Ok(())
    }

    async fn last_annotation(&self, subject: &str) -> Result<Option<OffsetDateTime>, PoolError> {
        let stream = self.pool.stream(&self.pool.streams.annotations).await?;
        match stream.direct_get_last_for_subject(subject).await {
            Ok(message) => Ok(Some(message.time)),
            Err(error) => {
                tracing::debug!(subject, "the last annotation cannot be read: {error}");
                Ok(None)
            }
        }
    }
}

/// When the work on a dataset began: when its first annotation's job was delivered.
fn began(first: &StoredMessage) -> OffsetDateTime {
    let annotation = ImageAnnotation::decode(first.payload.clone()).ok();
    let total = annotation.and_then(|annotation| annotation.timings).and_then(|timings| timings.total);
    let took = total.map_or(Duration::ZERO, |total| Duration::new(total.seconds, total.nanos));
    first.published - took.clamp(Duration::ZERO, Duration::HOUR)
}

fn cost(price_per_hour: f64, device_seconds: f64, done: u64) -> Cost {
    let so_far = device_seconds / 3600.0 * price_per_hour;
    Cost { per_thousand: (done > 0).then(|| so_far / done as f64 * 1000.0), so_far: Some(so_far) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_that_of_the_time_of_the_workers() {
        assert_eq!(cost(2.0, 7200.0, 8000), Cost { per_thousand: Some(0.5), so_far: Some(4.0) });
        assert_eq!(cost(2.0, 0.0, 0), Cost { per_thousand: None, so_far: Some(0.0) });
    }
}
