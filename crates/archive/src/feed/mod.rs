//! The feeder: jobs out of a source, each exactly once, however often it is killed on the way.

pub(crate) mod batch;
mod cursors;
mod error;
mod lane;
mod plan;
mod progress;
mod repair;
mod survey;
mod unique;
mod watermark;

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::Stream;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use wire::subjects::CURSORS_WILDCARD;

pub use error::FeedError;
pub use plan::{Counts, Cursor, FeederRecord, Plan};
pub use progress::{Progress, Snapshot};
pub use repair::Repair;

use crate::filter::{Filter, FilterError, SampleRule, Selection};
use crate::object::Position;
use crate::recipe::Recipe;
use crate::source::Source;
use cursors::{Cursors, Stored};
use lane::Feeding;
use unique::Unique;
use watermark::Watermark;

/// Fewest jobs that may be allowed to wait: a batch must fit.
pub const LEAST_WAITING: u64 = 1000;

/// What is to be fed, and how.
#[derive(Debug, Clone)]
pub struct Feed {
    /// Where the objects come from.
    pub sources: Vec<Source>,
    /// Which of them become jobs.
    pub filter: Filter,
    /// Size and seed of a sample of them.
    pub sample: Option<(usize, u64)>,
    /// Of objects with the same ETag, only one becomes a job.
    pub unique_etag: bool,
    /// What is asked about each of them.
    pub recipe: Recipe,
    /// What decides which jobs come of the sources, by name; kept beside the cursors and compared by later runs.
    pub arguments: BTreeMap<String, serde_json::Value>,
    /// Lanes that are read at once.
    pub lanes_at_once: usize,
}

/// Where the jobs go.
#[derive(Debug, Clone)]
pub struct Target {
    /// JetStream.
    pub jetstream: Context,
    /// Name of the stream of jobs.
    pub stream: String,
    /// Name of the workers' consumer.
    pub consumer: String,
    /// Most jobs of the dataset that wait in the stream, at least [`LEAST_WAITING`].
    pub max_waiting: u64,
    /// How long the server has for each request.
    pub timeout: Duration,
    /// Name of this feeder, for the messages of others.
    pub feeder: String,
}

/// What a feeder did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// All that came of the source, by all feeders.
    pub total: Counts,
    /// The part of it that this feeder stored.
    pub stored: Counts,
    /// Lanes of the dataset.
    pub lanes: usize,
}

impl Feed {
    /// Feeds the dataset to its end, from where the last feeder stopped.
    ///
    /// # Errors
    /// [`FeedError`]; what was stored until then stays, and a later call goes on from there.
    pub async fn run(&self, target: &Target, progress: &Progress) -> Result<Summary, FeedError> {
        let stream = open_stream(target).await?;
        self.check_size(&stream, target)?;
        let cursors = Cursors {
            client: target.jetstream.client(),
            stream: stream.clone(),
            dataset: self.recipe.dataset.clone(),
            timeout: target.timeout,
        };
        let plan = match cursors.last::<Plan>("plan").await? {
            Some(found) => found.value,
            None => cursors.plan_or(&self.plan(progress).await?).await?,
        };
        let differing = plan.differences(&self.arguments);
        if !differing.is_empty() {
            let dataset = self.recipe.dataset.to_string();
            return Err(FeedError::OtherPlan { dataset, differing });
        }
        progress.has_lanes(plan.lanes.len());
        let feeder = cursors.register(&target.feeder).await?;
        let claims: Vec<_> = (0..plan.lanes.len()).map(|lane| cursors.claim(lane, &feeder).boxed()).collect();
        let claimed: Vec<Stored<Cursor>> =
            stream::iter(claims).buffered(self.lanes_at_once.max(1)).try_collect().await?;
        let mut earlier = Counts::default();
        claimed.iter().for_each(|cursor| earlier += cursor.value.counts);
        progress.add(earlier);

        let selection = self.selection(plan.sample)?;
        let unique = if self.unique_etag { Some(self.learn(&plan, &claimed, &selection).await?) } else { None };
        let watermark =
            Watermark::new(stream, self.recipe.dataset.jobs_subject(), target.max_waiting.max(LEAST_WAITING));
        let feeding = Feeding { recipe: &self.recipe, cursors: &cursors, watermark, unique, progress };
        let mut runs = Vec::new();
        for (index, ((source, lane), cursor)) in plan.lanes.iter().zip(claimed).enumerate() {
            if cursor.value.position == Position::End {
                progress.lane_done();
                continue;
            }
            let Some(source) = self.sources.get(*source) else { continue };
            let (feeding, selection) = (&feeding, selection.clone());
            let run = async move {
                // Read only when it is this lane's turn.
                let pages = source.pages(lane, cursor.value.position.clone(), selection);
                feeding.run(index, cursor, pages).await
            };
            runs.push(run.boxed());
        }
        let mut stored = Counts::default();
        let mut ends = stream::iter(runs).buffer_unordered(self.lanes_at_once.max(1));
        while let Some(counts) = ends.try_next().await? {
            stored += counts;
        }
        let mut total = earlier;
        total += stored;
        Ok(Summary { total, stored, lanes: plan.lanes.len() })
    }

    /// A plan for sources that have none.
    async fn plan(&self, progress: &Progress) -> Result<Plan, FeedError> {
        let sample = self.find_sample(progress).await?;
        Ok(Plan { arguments: self.arguments.clone(), sample, lanes: self.lanes().await? })
    }

    fn selection(&self, sample: Option<SampleRule>) -> Result<Selection, FeedError> {
        Selection::new(self.filter.clone(), sample).map_err(|error: FilterError| FeedError::Broker {
            what: "reading the plan".to_owned(),
            cause: error.to_string(),
        })
    }

    async fn learn(&self, plan: &Plan, claimed: &[Stored<Cursor>], selection: &Selection) -> Result<Unique, FeedError> {
        let unique = Unique::default();
        let lanes = plan.lanes.iter().zip(claimed);
        // Collected, because a future with a borrowing iterator in it cannot be moved to another thread.
        let readings: Vec<_> = lanes
            .filter_map(|((source, lane), cursor)| {
                let source = self.sources.get(*source)?;
                Some(unique.learn(source, lane, &cursor.value.position, selection).boxed())
            })
            .collect();
        let mut ends = stream::iter(readings).buffer_unordered(self.lanes_at_once.max(1));
        while ends.try_next().await?.is_some() {}
        drop(ends);
        Ok(unique)
    }

    fn check_size(&self, stream: &Stream, target: &Target) -> Result<(), FeedError> {
        /// For headers.
        const BESIDE: usize = 1024;
        let bytes = self.recipe.check()?;
        let most = match usize::try_from(stream.cached_info().config.max_message_size) {
            Ok(most) if most > 0 => most,
            _ => target.jetstream.client().max_payload(),
        };
        if bytes + BESIDE > most { Err(FeedError::LargeJobs { bytes, most }) } else { Ok(()) }
    }
}

/// The stream of jobs, known to take cursors and atomic batches, and its consumer to leave cursors alone.
async fn open_stream(target: &Target) -> Result<Stream, FeedError> {
    let name = &target.stream;
    let stream = target.jetstream.get_stream(name).await.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(said)
            if said.error_code() == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND =>
        {
            FeedError::NoStream(name.clone())
        }
        _ => FeedError::broker(format!("opening the stream {name}"), &error),
    })?;
    let config = &stream.cached_info().config;
    let old = |problem| Err(FeedError::OldStream { stream: name.clone(), problem });
    if !config.allow_atomic_publish {
        return old("does not take atomic batches");
    }
    if !config.subjects.iter().any(|subject| subject == CURSORS_WILDCARD) {
        return old("does not hold cursors");
    }
    match stream.consumer_info(&target.consumer).await {
        Ok(info) if info.config.filter_subject.is_empty() && info.config.filter_subjects.is_empty() => {
            old("has a consumer that would hand out cursors as jobs")
        }
        // No consumer takes no cursors.
        _ => Ok(stream),
    }
}
