//! The plan of a dataset: the first feeder makes it, and later ones follow it.

use super::annotated::Annotated;
use super::cursors::{Cursors, Versioned};
use super::datasets::unfinished_jobs;
use super::error::FeedError;
use super::records::{Cursor, DatasetState, MANIFESTS_ARGUMENT, Plan, REPAIR_LANE, StateRecord};
use super::types::{Feed, Target};
use crate::object::Position;

impl Feed {
    /// The plan to follow, and the objects to skip because they have an annotation.
    pub(super) async fn current_plan(
        &self,
        target: &Target,
        cursors: &Cursors,
    ) -> Result<(Plan, Option<Annotated>), FeedError> {
        let dataset = &self.recipe.dataset;
        let annotated = async || Annotated::read(&target.jetstream, &target.streams.annotations, dataset).await;
        let Some(Versioned { value: plan, sequence }) = cursors.last::<Plan>("plan").await? else {
            let plan = self.store_plan(cursors, self.first_plan(0).await?, 0).await?;
            return Ok((plan, if self.missing { Some(annotated().await?) } else { None }));
        };
        let is_cancelled = cursors.state().await?.state == DatasetState::Cancelled;
        let starts_pass = self.missing && (is_cancelled || self.is_complete(&plan, cursors).await?);
        // Manifests may change between passes, but not within one, because cursors refer to their rows.
        let ignored: &[&str] = if starts_pass { &[MANIFESTS_ARGUMENT] } else { &[] };
        let differing = plan.differences(&self.arguments, ignored);
        if !differing.is_empty() {
            let Some(next) = self.replace_plan(&plan, sequence, target, cursors).await? else {
                return Err(FeedError::OtherArguments { dataset: dataset.to_string(), differing });
            };
            if is_cancelled {
                cursors.set_state(&StateRecord::default()).await?;
            }
            return Ok((next, if self.missing { Some(annotated().await?) } else { None }));
        }
        if starts_pass {
            let waiting = unfinished_jobs(&target.jetstream, &target.streams, dataset).await?;
            if waiting > 0 {
                return Err(FeedError::JobsWaiting { dataset: dataset.to_string(), waiting });
            }
            let annotated = annotated().await?;
            let next = Plan { unused_passes: plan.unused_passes, ..self.plan(plan.pass + 1).await? };
            let next = self.store_plan(cursors, next, sequence).await?;
            if is_cancelled {
                cursors.set_state(&StateRecord::default()).await?;
            }
            return Ok((next, Some(annotated)));
        }
        if is_cancelled {
            return Err(FeedError::Cancelled(dataset.to_string()));
        }
        let skips_annotated = self.missing || plan.is_of_missing();
        Ok((plan, if skips_annotated { Some(annotated().await?) } else { None }))
    }

    /// Replaces the plan of a dataset that never had a job by one with the arguments of this feeder. `None` if it had one.
    async fn replace_plan(
        &self,
        plan: &Plan,
        sequence: u64,
        target: &Target,
        cursors: &Cursors,
    ) -> Result<Option<Plan>, FeedError> {
        if plan.pass != plan.unused_passes || stored_jobs(plan, cursors).await? > 0 {
            return Ok(None);
        }
        let pass = plan.pass + 1;
        let next = Plan { unused_passes: pass, ..self.first_plan(pass).await? };
        // From here on, earlier feeders can store no job.
        let feeder = cursors.register(&target.feeder).await?;
        for lane in 0..plan.lanes.len() {
            if cursors.take_over(lane, plan.pass, &feeder).await?.value.counts.jobs > 0 {
                return Ok(None);
            }
        }
        self.store_plan(cursors, next, sequence).await.map(Some)
    }

    /// Stores a plan after the one with the sequence `last_sequence`. If another feeder was faster, it must have had the
    /// same arguments.
    async fn store_plan(&self, cursors: &Cursors, plan: Plan, last_sequence: u64) -> Result<Plan, FeedError> {
        let stored = cursors.store_plan(plan, last_sequence).await?;
        match stored.differences(&self.arguments, &[]) {
            differing if differing.is_empty() => Ok(stored),
            differing => Err(FeedError::OtherArguments { dataset: self.recipe.dataset.to_string(), differing }),
        }
    }

    /// Whether all lanes of the plan have been read to their end.
    pub(super) async fn is_complete(&self, plan: &Plan, cursors: &Cursors) -> Result<bool, FeedError> {
        for lane in 0..plan.lanes.len() {
            let cursor = cursors.last::<Cursor>(&lane.to_string()).await?;
            let is_at_end = |cursor: Cursor| cursor.pass == plan.pass && cursor.position == Position::End;
            if !cursor.is_some_and(|cursor| is_at_end(cursor.value)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A plan for a pass over sources that have an object: a mistyped address must not become a dataset.
    async fn first_plan(&self, pass: u64) -> Result<Plan, FeedError> {
        let plan = self.plan(pass).await?;
        if !self.has_object(&plan.lanes).await? {
            return Err(FeedError::NoObjects(self.recipe.dataset.to_string()));
        }
        Ok(plan)
    }

    /// A plan for a pass over the sources.
    async fn plan(&self, pass: u64) -> Result<Plan, FeedError> {
        let sample = self.find_sample().await?;
        let (arguments, lanes) = (self.arguments.clone(), self.lanes().await?);
        Ok(Plan { arguments, sample, lanes, pass, unused_passes: 0 })
    }
}

/// The jobs of a pass, those of repairs included.
async fn stored_jobs(plan: &Plan, cursors: &Cursors) -> Result<u64, FeedError> {
    let mut jobs = 0;
    for lane in (0..plan.lanes.len()).chain([REPAIR_LANE]) {
        let cursor = cursors.last::<Cursor>(&lane.to_string()).await?;
        let of_pass = cursor.map(|cursor| cursor.value).filter(|cursor| cursor.pass == plan.pass);
        jobs += of_pass.map_or(0, |cursor| cursor.counts.jobs);
    }
    Ok(jobs)
}
