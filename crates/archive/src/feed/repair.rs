//! Creates jobs for objects of a source that was read before, and that have no outcome.

use std::io;

use super::control::StateReader;
use super::cursors::{Cursors, Stored};
use super::error::FeedError;
use super::lane::LaneFeeder;
use super::progress::Progress;
use super::records::{Counts, Cursor, DatasetState, Plan};
use super::run::open_stream;
use super::types::{Feed, MIN_MAX_WAITING, Target};
use super::watermark::Watermark;
use crate::object::{PAGE_SIZE, Page, Position, SourceObject};

/// The lane of repairs. No plan has as many lanes.
pub(crate) const REPAIR_LANE: usize = 999_999;
/// Arguments that determine what is asked about each object. A repair must have those of the plan.
const RECIPE_ARGUMENTS: [&str; 4] = ["--task", "--prompt", "generation options", "--pin"];

/// The right to store jobs for a dataset whose source was read to its end. It ends when another repair of the dataset
/// begins.
#[derive(Debug)]
pub struct Repair {
    cursors: Cursors,
    cursor: Stored<Cursor>,
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
        let stream = open_stream(target, self.urgent).await?;
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
        if let Some(plan) = &plan {
            self.check_recipe(plan)?;
            if !self.is_complete(plan, &cursors).await? {
                return Err(FeedError::Unfinished(dataset.to_string()));
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
        let watermark = Watermark::new(stream, self.jobs_subject(), max_waiting);
        Ok(Repair { cursors, cursor, state, watermark })
    }

    fn check_recipe(&self, plan: &Plan) -> Result<(), FeedError> {
        let dataset = self.recipe.dataset.to_string();
        if plan.arguments.get("--unique").is_some_and(|value| !value.is_null()) {
            return Err(FeedError::UniqueRepair(dataset));
        }
        let mut arguments = plan.arguments.clone();
        for name in RECIPE_ARGUMENTS {
            let given = self.arguments.get(name).cloned().unwrap_or_default();
            arguments.insert(name.to_owned(), given);
        }
        match plan.differences(&arguments) {
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
        let (state_reader, control) = StateReader::new(cursors.clone(), None, state);
        let feeder = LaneFeeder {
            recipe: &self.recipe,
            cursors: &cursors,
            watermark,
            control,
            seen_etags: None,
            annotated: None,
            progress,
        };
        let all = async {
            let mut stored = Counts::default();
            let mut objects = objects.peekable();
            while objects.peek().is_some() {
                let page = objects.by_ref().take(PAGE_SIZE).collect::<io::Result<Vec<SourceObject>>>();
                let page = page.map_err(|error| FeedError::Broker {
                    what: "reading the missing objects".to_owned(),
                    cause: error.to_string(),
                })?;
                let seen = page.len() as u64;
                let after = Position::Row { file: 0, row: cursor.value.counts.seen + seen, byte: None };
                stored += feeder.append(REPAIR_LANE, &mut cursor, Page { objects: page, seen, after }).await?;
            }
            Ok::<_, FeedError>(stored)
        };
        let stored = tokio::select! {
            stored = all => stored?,
            () = state_reader.run(progress) => Counts::default(),
        };
        cursors.remove_old(&REPAIR_LANE.to_string()).await;
        Ok(stored)
    }
}
