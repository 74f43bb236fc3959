//! What a feeder reads, and where it stores jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::Context;
use broker::settings::StreamSettings;

use super::error::FeedError;
use super::records::Counts;
use crate::filter::{Filter, SampleRule, Selection};
use crate::recipe::Recipe;
use crate::source::Source;

/// The minimum of [`Target::max_waiting`]: a batch must fit.
pub const MIN_MAX_WAITING: u64 = 1000;

/// The sources of a dataset, the selection of their objects, and the jobs to create.
#[derive(Debug, Clone)]
pub struct Feed {
    /// The sources.
    pub sources: Vec<Source>,
    /// The objects to create jobs for.
    pub filter: Filter,
    /// Size and seed of a random sample of these objects; `None` for all of them.
    pub sample: Option<(usize, u64)>,
    /// Whether objects with the same ETag share one job.
    pub unique_etag: bool,
    /// Whether to skip objects that have an annotation in the dataset. If the dataset is complete or was cancelled, this
    /// starts another pass over the sources.
    pub missing: bool,
    /// Whether the jobs are urgent.
    pub urgent: bool,
    /// The tasks and options of the jobs.
    pub recipe: Recipe,
    /// The arguments that determine the jobs, by name. They are stored, and compared with those of later runs.
    pub arguments: BTreeMap<String, serde_json::Value>,
    /// The number of lanes to read in parallel.
    pub parallel_lanes: usize,
}

/// The streams that jobs are stored in, and limits.
#[derive(Debug, Clone)]
pub struct Target {
    /// JetStream.
    pub jetstream: Context,
    /// The names of streams and consumers.
    pub streams: StreamSettings,
    /// The maximum number of jobs of the dataset that wait in the stream; at least [`MIN_MAX_WAITING`].
    pub max_waiting: u64,
    /// The share of failures among finished jobs, 0 to 1, above which the dataset is paused; `None` for no limit.
    pub max_failure_rate: Option<f64>,
    /// Timeout for the server's response to one request.
    pub timeout: Duration,
    /// The name of this feeder, which is shown to other feeders.
    pub feeder: String,
}

/// What a feeder has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Counts of this pass over the source, of all feeders.
    pub total: Counts,
    /// Counts of this feeder.
    pub stored: Counts,
    /// The number of lanes of the dataset.
    pub lanes: usize,
}

impl Feed {
    /// The subject of the jobs.
    pub(crate) fn jobs_subject(&self) -> String {
        match self.urgent {
            true => self.recipe.dataset.urgent_subject(),
            false => self.recipe.dataset.jobs_subject(),
        }
    }

    pub(crate) fn selection(&self, sample: Option<SampleRule>) -> Result<Selection, FeedError> {
        Ok(Selection::new(self.filter.clone(), sample)?)
    }
}
