//! Creates jobs for objects of a source that was read before, and that have no outcome.

use std::io;

use tokio::sync::Semaphore;

use super::control::{Fence, StateReader};
use super::cursors::{Cursors, Versioned};
use super::error::FeedError;
use super::lane::{LaneFeeder, MAX_OPEN_BATCHES};
use super::progress::Progress;
use super::records::{Counts, Cursor, DatasetState, Plan, REPAIR_LANE};
use super::run::open_jobs;
use super::types::{Feed, MIN_MAX_WAITING, Target};
use super::watermark::Watermark;
use crate::object::{PAGE_SIZE, Page, Position, SourceObject};
use crate::pool::{is_known, open_stream};

/// Arguments that determine what is asked about each object. A repair must have those of the plan.
const RECIPE_ARGUMENTS: [&str; 4] = ["--task", "--prompt", "generation options", "--pin"];

/// The right to store jobs for a dataset whose source was read to its end. It ends when another repair of the dataset
/// begins.
#[derive(Debug)]
pub struct Repair {
    cursors: Cursors,
    cursor: Versioned<Cursor>,
    state: DatasetState,
    watermark: Watermark,
}

impl Feed {
    /// Begins a repair. Jobs that other repairs have stored are in the stream now, and they can store no more: so the
    /// missing objects must be determined after this.
    ///
    /// # Errors
    /// [`FeedError`], also if the dataset was cancelled or fed with other tasks, or its source was not read to its end.
    pub async fn begin_repair(&self, target: &Target) -> Result<Repair, FeedError> {
        let stream = open_jobs(target, self.urgent).await?;
        self.check_size(&stream, target)?;
        let dataset = &self.recipe.dataset;
        let cursors = Cursors {
            client: target.jetstream.client(),
            stream: stream.clone(),
            dataset: dataset.clone(),
            jobs_subject: self.jobs_subject(),
            timeout: target.timeout,
        };
        let plan = cursors.last::<Plan>("plan").await?.map(|plan| plan.value);
        if cursors.state().await?.state == DatasetState::Cancelled {
            return Err(FeedError::Cancelled(dataset.to_string()));
        }
        match &plan {
            Some(plan) => {
                self.check_recipe(plan)?;
                if !self.is_complete(plan, &cursors).await? {
                    return Err(FeedError::Unfinished(dataset.to_string()));
                }
            }
            // The whole archive is missing from a dataset whose name is mistyped.
            None => {
                if !is_known(&target.jetstream, &target.streams, dataset).await? {
                    return Err(FeedError::UnknownDataset(dataset.to_string()));
                }
            }
        }
        let feeder = cursors.register(&target.feeder).await?;
        let cursor = cursors.take_over(REPAIR_LANE, plan.map_or(0, |plan| plan.pass), &feeder).await?;
        // A cancellation after this fences this repair out.
        let state = cursors.state().await?.state;
        if state == DatasetState::Cancelled {
            return Err(FeedError::Cancelled(dataset.to_string()));
        }
        let max_waiting = target.max_waiting.max(MIN_MAX_WAITING);
        let retries = open_stream(&target.jetstream, &target.streams.retries).await?;
        let retries = (retries, dataset.retries_subject());
        let watermark = Watermark::new((stream, self.jobs_subject()), retries, max_waiting);
        Ok(Repair { cursors, cursor, state, watermark })
    }

    fn check_recipe(&self, plan: &Plan) -> Result<(), FeedError> {
        let dataset = self.recipe.dataset.to_string();
        if plan.is_unique() {
            return Err(FeedError::UniqueRepair(dataset));
        }
        let mut arguments = plan.arguments.clone();
        for name in RECIPE_ARGUMENTS {
            let given = self.arguments.get(name).cloned().unwrap_or_default();
            arguments.insert(name.to_owned(), given);
        }
        match plan.differences(&arguments, &[]) {
            differing if differing.is_empty() => Ok(()),
            differing => Err(FeedError::OtherArguments { dataset, differing }),
        }
    }

    /// Stores a job for each of these objects. Waits while the dataset is paused. Returns the counts of what was stored.
    ///
    /// # Errors
    /// [`FeedError`]. Jobs that were stored before the error stay.
    pub async fn repair(
        &self,
        repair: Repair,
        objects: impl Iterator<Item = io::Result<SourceObject>>,
        progress: &Progress,
    ) -> Result<Counts, FeedError> {
        let Repair { cursors, mut cursor, state, watermark } = repair;
        // A feeder of a complete dataset stores nothing, and does not replace a repair.
        let fence = Fence { own: cursor.value.feeder.clone(), lane: Some(REPAIR_LANE) };
        let (state_reader, control) = StateReader::new(cursors.clone(), None, state, fence);
        let feeder = LaneFeeder {
            recipe: &self.recipe,
            cursors: &cursors,
            watermark,
            control,
            seen_etags: None,
            annotated: None,
            progress,
            open_batches: Semaphore::new(MAX_OPEN_BATCHES),
        };
        let all = async {
            let mut stored = Counts::default();
            let mut objects = objects.peekable();
            while objects.peek().is_some() {
                let page = objects.by_ref().take(PAGE_SIZE).collect::<io::Result<Vec<SourceObject>>>();
                let page = page.map_err(FeedError::Disk)?;
                let seen = page.len() as u64;
                let after = Position::Row { file: 0, row: cursor.value.counts.seen + seen, byte: None };
                stored += feeder.append(REPAIR_LANE, &mut cursor, Page { objects: page, seen, after }).await?;
            }
            Ok::<_, FeedError>(stored)
        };
        let stored = tokio::select! {
            stored = all => stored?,
            replaced = state_reader.run(progress) => return Err(replaced),
        };
        cursors.remove_old(&REPAIR_LANE.to_string()).await;
        Ok(stored)
    }
}
