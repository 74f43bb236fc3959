//! Feeds a dataset, from the cursors of earlier feeders to the end of its source.

use async_nats::jetstream::stream::Stream;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;
use wire::subjects::{CURSORS_WILDCARD, URGENT_WILDCARD};

use super::control::{Fence, StateReader};
use super::cursors::{Cursors, Versioned};
use super::error::FeedError;
use super::failure_rate::FailureRate;
use super::lane::{LaneFeeder, MAX_OPEN_BATCHES};
use super::progress::Progress;
use super::records::{Counts, Cursor, DatasetState, Plan};
use super::seen_etags::SeenEtags;
use super::types::{Feed, MIN_MAX_WAITING, Summary, Target};
use super::watermark::Watermark;
use crate::filter::Selection;
use crate::object::Position;
use crate::pool::open_stream;

/// Bytes of a job's headers.
const HEADER_BYTES: usize = 1024;

impl Feed {
    /// Feeds the dataset until the end of its source, after the jobs of earlier feeders. Waits while the dataset is
    /// paused.
    ///
    /// # Errors
    /// [`FeedError`]. Jobs that were stored before the error stay, and a later call continues after them.
    pub async fn run(&self, target: &Target, progress: &Progress) -> Result<Summary, FeedError> {
        let stream = open_jobs(target, self.urgent).await?;
        self.check_size(&stream, target)?;
        let cursors = Cursors {
            client: target.jetstream.client(),
            stream,
            dataset: self.recipe.dataset.clone(),
            jobs_subject: self.jobs_subject(),
            timeout: target.timeout,
        };
        let fed = self.feed(target, &cursors, progress).await;
        if let Err(FeedError::FencedOut { dataset, .. }) = &fed
            && cursors.state().await?.state == DatasetState::Cancelled
        {
            return Err(FeedError::Cancelled(dataset.clone()));
        }
        fed
    }

    async fn feed(&self, target: &Target, cursors: &Cursors, progress: &Progress) -> Result<Summary, FeedError> {
        progress.watch_stores(&self.sources);
        let (plan, annotated) = self.current_plan(target, cursors).await?;
        progress.set_lanes(plan.lanes.len());
        let feeder = cursors.register(&target.feeder).await?;
        let lanes: Vec<_> =
            (0..plan.lanes.len()).map(|lane| cursors.take_over(lane, plan.pass, &feeder).boxed()).collect();
        let lanes: Vec<Versioned<Cursor>> =
            stream::iter(lanes).buffered(self.parallel_lanes.max(1)).try_collect().await?;
        // A cancellation after this fences this feeder out.
        let state = cursors.state().await?.state;
        if state == DatasetState::Cancelled {
            return Err(FeedError::Cancelled(self.recipe.dataset.to_string()));
        }
        // Another feeder may have replaced the plan before the lanes were taken over.
        if cursors.last::<Plan>("plan").await?.is_none_or(|last| last.value != plan) {
            return Err(FeedError::PlanReplaced(self.recipe.dataset.to_string()));
        }
        let mut earlier = Counts::default();
        lanes.iter().for_each(|cursor| earlier += cursor.value.counts);
        progress.add(earlier);

        let selection = self.selection(plan.sample)?;
        let seen_etags = match self.unique_etag {
            true => Some(self.load_etags(&plan, &lanes, &selection).await?),
            false => None,
        };
        let max_waiting = target.max_waiting.max(MIN_MAX_WAITING);
        let retries = open_stream(&target.jetstream, &target.streams.retries).await?;
        let retries = (retries, self.recipe.dataset.retries_subject());
        let watermark = Watermark::new((cursors.stream.clone(), cursors.jobs_subject.clone()), retries, max_waiting);
        let failure_rate = target.max_failure_rate.map(|maximum| {
            let (jetstream, streams) = (target.jetstream.clone(), target.streams.clone());
            FailureRate::new(jetstream, streams, self.recipe.dataset.clone(), maximum)
        });
        let (state_reader, control) =
            StateReader::new(cursors.clone(), failure_rate, state, Fence { own: feeder, lane: None });
        let skips_annotated = annotated.is_some();
        let feeder = LaneFeeder {
            recipe: &self.recipe,
            cursors,
            watermark,
            control,
            seen_etags,
            annotated,
            progress,
            open_batches: Semaphore::new(MAX_OPEN_BATCHES),
        };
        let mut runs = Vec::new();
        for (index, ((source, lane), cursor)) in plan.lanes.iter().zip(lanes).enumerate() {
            if cursor.value.position == Position::End {
                progress.lane_done();
                continue;
            }
            let Some(source) = self.sources.get(*source) else { continue };
            let (feeder, selection) = (&feeder, selection.clone());
            let run = async move {
                // The lane is read only when the future is polled.
                let pages = source.pages(lane, cursor.value.position.clone(), selection);
                feeder.run(index, cursor, pages).await
            };
            runs.push(run.boxed());
        }
        let all = async {
            let mut stored = Counts::default();
            let mut ended = stream::iter(runs).buffer_unordered(self.parallel_lanes.max(1));
            while let Some(counts) = ended.try_next().await? {
                stored += counts;
            }
            Ok::<_, FeedError>(stored)
        };
        let stored = tokio::select! {
            stored = all => stored?,
            replaced = state_reader.run(progress) => return Err(replaced),
        };
        let mut total = earlier;
        total += stored;
        let dataset = self.recipe.dataset.to_string();
        if total.seen == 0 {
            return Err(FeedError::NoObjects(dataset));
        }
        if total.jobs == 0 && !skips_annotated {
            return Err(FeedError::NoneSelected { dataset, read: total.seen });
        }
        Ok(Summary { total, stored, lanes: plan.lanes.len() })
    }

    /// The ETags of all objects before the cursors.
    async fn load_etags(
        &self,
        plan: &Plan,
        lanes: &[Versioned<Cursor>],
        selection: &Selection,
    ) -> Result<SeenEtags, FeedError> {
        let etags = SeenEtags::default();
        // Collected, because a future that contains a borrowing iterator is not `Send`.
        let loads: Vec<_> = plan
            .lanes
            .iter()
            .zip(lanes)
            .filter_map(|((source, lane), cursor)| {
                let source = self.sources.get(*source)?;
                Some(etags.load(source, lane, &cursor.value.position, selection).boxed())
            })
            .collect();
        let mut ended = stream::iter(loads).buffer_unordered(self.parallel_lanes.max(1));
        while ended.try_next().await?.is_some() {}
        drop(ended);
        Ok(etags)
    }

    pub(super) fn check_size(&self, stream: &Stream, target: &Target) -> Result<(), FeedError> {
        let bytes = self.recipe.max_job_bytes()?;
        let limit = match usize::try_from(stream.cached_info().config.max_message_size) {
            Ok(limit) if limit > 0 => limit,
            _ => target.jetstream.client().max_payload(),
        };
        if bytes + HEADER_BYTES > limit { Err(FeedError::LargeJobs { bytes, limit }) } else { Ok(()) }
    }
}

/// Opens the jobs stream. Checks that it accepts cursors and atomic batches, and that its consumer does not deliver
/// cursors as jobs.
pub(super) async fn open_jobs(target: &Target, urgent: bool) -> Result<Stream, FeedError> {
    let name = &target.streams.jobs;
    let stream = open_stream(&target.jetstream, name).await?;
    let config = &stream.cached_info().config;
    let has = |subject: &str| config.subjects.iter().any(|found| found == subject);
    let old = |problem| Err(FeedError::OldStream { stream: name.clone(), problem });
    if !config.allow_atomic_publish {
        return old("does not accept atomic batches");
    }
    if !has(CURSORS_WILDCARD) {
        return old("does not accept cursors");
    }
    if urgent && !has(URGENT_WILDCARD) {
        return old("does not accept urgent jobs");
    }
    match stream.consumer_info(&target.streams.consumer).await {
        Ok(info) if info.config.filter_subject.is_empty() && info.config.filter_subjects.is_empty() => {
            old("has a consumer that would deliver cursors as jobs")
        }
        // Without a consumer, no cursor is delivered.
        _ => Ok(stream),
    }
}
