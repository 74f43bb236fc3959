//! Lists, pauses, resumes and cancels datasets.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Stream;
use broker::settings::StreamSettings;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use wire::subjects::{Dataset, dataset_of};

use super::cursors::Cursors;
use super::error::FeedError;
use super::records::{Counts, Cursor, DatasetState, Plan, REPAIR_LANE, SourceState, StateRecord};
use crate::object::Position;
use crate::pool::{count, open_stream, subjects};

/// Maximum number of requests for cursors at once.
const CONCURRENCY: usize = 16;

/// The datasets in the jobs stream.
#[derive(Debug, Clone)]
pub struct Datasets {
    jetstream: Context,
    streams: StreamSettings,
    jobs: Stream,
    timeout: Duration,
}

/// A dataset that was enqueued, and how far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetSummary {
    /// The dataset.
    pub dataset: String,
    /// Its state.
    pub state: DatasetState,
    /// Why it has this state; `None` if an operator set it.
    pub reason: Option<String>,
    /// Counts of the current pass over the source.
    pub counts: Counts,
    /// The number of lanes.
    pub lanes: usize,
    /// Lanes that have been read to their end.
    pub lanes_done: usize,
    /// Jobs in the jobs stream, waiting or active.
    pub waiting: u64,
    /// Jobs in the retries stream.
    pub retrying: u64,
}

/// What was removed from a cancelled dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled {
    /// Jobs.
    pub jobs: u64,
    /// Retries.
    pub retries: u64,
    /// Whether the dataset has a plan. Otherwise it has no state, and can get jobs again.
    pub has_plan: bool,
}

impl DatasetSummary {
    /// Whether the source has been read to its end.
    pub fn is_complete(&self) -> bool {
        self.lanes == self.lanes_done
    }

    /// What is told about its source.
    pub fn source_state(&self) -> SourceState {
        SourceState::new(self.state, self.is_complete())
    }
}

impl Datasets {
    /// Opens the jobs stream.
    ///
    /// # Errors
    /// [`FeedError::Pool`] if it does not exist or cannot be read.
    pub async fn open(jetstream: Context, streams: StreamSettings, timeout: Duration) -> Result<Self, FeedError> {
        let jobs = open_stream(&jetstream, &streams.jobs).await?;
        Ok(Self { jetstream, streams, jobs, timeout })
    }

    /// All datasets that were ever enqueued, sorted by name.
    ///
    /// # Errors
    /// [`FeedError`] if they cannot be read.
    pub async fn list(&self) -> Result<Vec<DatasetSummary>, FeedError> {
        let plans = subjects(&self.jobs, "groundling.cursor.*.plan").await?;
        let mut names: Vec<Dataset> =
            plans.iter().filter_map(|(subject, _)| dataset_of(subject)?.parse().ok()).collect();
        names.sort();
        let mut summaries = Vec::new();
        for name in names {
            summaries.push(self.summary(&name).await?);
        }
        Ok(summaries)
    }

    /// One dataset.
    ///
    /// # Errors
    /// [`FeedError::NoDataset`] if it was never enqueued; others if it cannot be read.
    pub async fn summary(&self, dataset: &Dataset) -> Result<DatasetSummary, FeedError> {
        let (cursors, plan) = self.plan(dataset).await?;
        let StateRecord { state, reason } = cursors.state().await?;
        let requests: Vec<_> = (0..plan.lanes.len())
            .map(|lane| {
                let cursors = &cursors;
                async move { cursors.last::<Cursor>(&lane.to_string()).await }.boxed()
            })
            .collect();
        let mut found = stream::iter(requests).buffered(CONCURRENCY);
        let (mut counts, mut lanes_done) = (Counts::default(), 0);
        while let Some(cursor) = found.try_next().await? {
            if let Some(cursor) = cursor.map(|cursor| cursor.value).filter(|cursor| cursor.pass == plan.pass) {
                counts += cursor.counts;
                lanes_done += usize::from(cursor.position == Position::End);
            }
        }
        let waiting = waiting_jobs(&self.jobs, dataset).await?;
        let retries = open_stream(&self.jetstream, &self.streams.retries).await?;
        let retrying = count(&retries, &dataset.retries_subject()).await?;
        let (dataset, lanes) = (dataset.to_string(), plan.lanes.len());
        Ok(DatasetSummary { dataset, state, reason, counts, lanes, lanes_done, waiting, retrying })
    }

    /// Pauses a dataset: within about a second, feeders store no more jobs. Workers continue with the waiting ones.
    /// Returns the state before.
    ///
    /// # Errors
    /// [`FeedError::Cancelled`] if the dataset was cancelled, and others.
    pub async fn pause(&self, dataset: &Dataset) -> Result<DatasetState, FeedError> {
        self.set(dataset, DatasetState::Paused).await
    }

    /// Resumes a paused dataset: feeders that wait continue. Returns the state before.
    ///
    /// # Errors
    /// [`FeedError::Cancelled`] if the dataset was cancelled, and others.
    pub async fn resume(&self, dataset: &Dataset) -> Result<DatasetState, FeedError> {
        self.set(dataset, DatasetState::Active).await
    }

    async fn set(&self, dataset: &Dataset, state: DatasetState) -> Result<DatasetState, FeedError> {
        let (cursors, _) = self.plan(dataset).await?;
        if cursors.state().await?.state == DatasetState::Cancelled {
            return Err(FeedError::Cancelled(dataset.to_string()));
        }
        cursors.set_state(&StateRecord { state, reason: None }).await
    }

    /// Cancels a dataset: takes its lanes over, so that no feeder can store jobs, and removes its waiting jobs and retries.
    /// Jobs that workers process at this time may still be done. `name` is shown to feeders.
    ///
    /// # Errors
    /// [`FeedError::NoDataset`] if it has neither plan nor jobs, and others. It can be called again.
    pub async fn cancel(&self, dataset: &Dataset, name: &str) -> Result<Cancelled, FeedError> {
        let cursors = self.cursors(dataset);
        let plan = cursors.last::<Plan>("plan").await?.map(|plan| plan.value);
        if plan.is_some() {
            cursors.set_state(&StateRecord { state: DatasetState::Cancelled, reason: None }).await?;
        } else if unfinished_jobs(&self.jetstream, &self.streams, dataset).await? == 0 {
            return Err(FeedError::NoDataset(dataset.to_string()));
        }
        let feeder = cursors.register(name).await?;
        let (pass, lanes) = plan.as_ref().map_or((0, 0), |plan| (plan.pass, plan.lanes.len()));
        for lane in 0..lanes {
            cursors.take_over(lane, pass, &feeder).await?;
        }
        if cursors.last::<Cursor>(&REPAIR_LANE.to_string()).await?.is_some() {
            cursors.take_over(REPAIR_LANE, pass, &feeder).await?;
        }
        let retries = open_stream(&self.jetstream, &self.streams.retries).await?;
        let removed = async |stream: &Stream, subject: String| {
            let purged = stream.purge().filter(&subject).await;
            purged.map(|purged| purged.purged).map_err(|error| FeedError::broker(format!("removing {subject}"), &error))
        };
        let jobs = removed(&self.jobs, dataset.jobs_subject()).await?;
        let urgent = removed(&self.jobs, dataset.urgent_subject()).await?;
        let retries = removed(&retries, dataset.retries_subject()).await?;
        Ok(Cancelled { jobs: jobs + urgent, retries, has_plan: plan.is_some() })
    }

    fn cursors(&self, dataset: &Dataset) -> Cursors {
        Cursors {
            client: self.jetstream.client(),
            stream: self.jobs.clone(),
            dataset: dataset.clone(),
            jobs_subject: dataset.jobs_subject(),
            timeout: self.timeout,
        }
    }

    async fn plan(&self, dataset: &Dataset) -> Result<(Cursors, Plan), FeedError> {
        let cursors = self.cursors(dataset);
        match cursors.last::<Plan>("plan").await? {
            Some(plan) => Ok((cursors, plan.value)),
            None => Err(FeedError::NoDataset(dataset.to_string())),
        }
    }
}

/// The number of jobs of a dataset in the jobs and retries streams.
pub(crate) async fn unfinished_jobs(
    jetstream: &Context,
    streams: &StreamSettings,
    dataset: &Dataset,
) -> Result<u64, FeedError> {
    let jobs = open_stream(jetstream, &streams.jobs).await?;
    let retries = open_stream(jetstream, &streams.retries).await?;
    Ok(waiting_jobs(&jobs, dataset).await? + count(&retries, &dataset.retries_subject()).await?)
}

async fn waiting_jobs(jobs: &Stream, dataset: &Dataset) -> Result<u64, FeedError> {
    Ok(count(jobs, &dataset.jobs_subject()).await? + count(jobs, &dataset.urgent_subject()).await?)
}
