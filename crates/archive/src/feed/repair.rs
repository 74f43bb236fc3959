//! Jobs for objects of a source that was read before, and that have no outcome.

use std::io;

use super::cursors::{Cursors, Stored};
use super::error::FeedError;
use super::lane::Feeding;
use super::plan::{Counts, Cursor, Plan};
use super::progress::Progress;
use super::watermark::Watermark;
use super::{Feed, LEAST_WAITING, Target, open_stream};
use crate::object::{PAGE, Page, Position, SourceObject};

/// The lane of repairs. No plan has as many lanes.
const REPAIR_LANE: usize = 999_999;
/// Arguments that decide what is asked about each object. A repair must give those of the plan.
const RECIPE: [&str; 4] = ["--task", "--prompt", "generation options", "--pin"];

/// The right to store jobs for a dataset whose source was read to its end. It ends when another repair or feeder of the
/// dataset begins.
#[derive(Debug)]
pub struct Repair {
    cursors: Cursors,
    cursor: Stored<Cursor>,
    watermark: Watermark,
}

impl Feed {
    /// Begins a repair. Whatever another repair has stored is in the stream by then, and it can store nothing afterwards: so
    /// the missing objects are to be found after this.
    ///
    /// # Errors
    /// [`FeedError`], also if the dataset was fed with other tasks, or its source was not read to its end.
    pub async fn begin_repair(&self, target: &Target) -> Result<Repair, FeedError> {
        let stream = open_stream(target).await?;
        self.check_size(&stream, target)?;
        let dataset = &self.recipe.dataset;
        let cursors = Cursors {
            client: target.jetstream.client(),
            stream: stream.clone(),
            dataset: dataset.clone(),
            timeout: target.timeout,
        };
        if let Some(plan) = cursors.last::<Plan>("plan").await? {
            self.check_plan(&plan.value)?;
            for lane in 0..plan.value.lanes.len() {
                let cursor = cursors.last::<Cursor>(&lane.to_string()).await?;
                if cursor.is_none_or(|cursor| cursor.value.position != Position::End) {
                    return Err(FeedError::Unfinished(dataset.to_string()));
                }
            }
        }
        let feeder = cursors.register(&target.feeder).await?;
        let cursor = cursors.claim(REPAIR_LANE, &feeder).await?;
        let watermark = Watermark::new(stream, dataset.jobs_subject(), target.max_waiting.max(LEAST_WAITING));
        Ok(Repair { cursors, cursor, watermark })
    }

    fn check_plan(&self, plan: &Plan) -> Result<(), FeedError> {
        let dataset = self.recipe.dataset.to_string();
        let is_unique = plan.arguments.get("--unique").is_some_and(|value| !value.is_null());
        if is_unique {
            return Err(FeedError::UniqueRepair(dataset));
        }
        let mut arguments = plan.arguments.clone();
        for name in RECIPE {
            let given = self.arguments.get(name).cloned().unwrap_or_default();
            arguments.insert(name.to_owned(), given);
        }
        match plan.differences(&arguments) {
            differing if differing.is_empty() => Ok(()),
            differing => Err(FeedError::OtherPlan { dataset, differing }),
        }
    }

    /// Stores a job for each of these objects; gives the counts of what was stored.
    ///
    /// # Errors
    /// [`FeedError`]; what was stored until then stays.
    pub async fn repair(
        &self,
        repair: Repair,
        objects: impl Iterator<Item = io::Result<SourceObject>>,
        progress: &Progress,
    ) -> Result<Counts, FeedError> {
        let Repair { cursors, mut cursor, watermark } = repair;
        let feeding = Feeding { recipe: &self.recipe, cursors: &cursors, watermark, unique: None, progress };
        let mut stored = Counts::default();
        let mut objects = objects.peekable();
        while objects.peek().is_some() {
            let page: Vec<SourceObject> = objects.by_ref().take(PAGE).collect::<io::Result<_>>().map_err(|error| {
                FeedError::Broker { what: "reading the missing objects".to_owned(), cause: error.to_string() }
            })?;
            let rows = cursor.value.counts.seen + page.len() as u64;
            let after = Position::Row { file: 0, row: rows, byte: None };
            let page = Page { seen: page.len() as u64, objects: page, after };
            stored += feeding.append(REPAIR_LANE, &mut cursor, page).await?;
        }
        cursors.remove_old(&REPAIR_LANE.to_string()).await;
        Ok(stored)
    }
}
