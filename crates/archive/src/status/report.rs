//! What is told about a pool and its datasets. `None` stands for "unknown".

use std::collections::BTreeMap;

use serde::Serialize;

use crate::feed::SourceState;
use crate::object::Position;

/// The state of the pool at a moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Status {
    /// The datasets, by name.
    pub datasets: Vec<DatasetStatus>,
    /// All of them together; `None` for a single one.
    pub total: Option<Total>,
}

/// The sums over several datasets.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Total {
    /// Jobs in the stream of jobs: waiting or in flight.
    pub queued: u64,
    /// Those that no worker has.
    pub waiting: Option<u64>,
    /// Those that a worker has.
    pub in_flight: Option<u64>,
    /// Jobs that wait for another attempt or for their store, or are attempted again.
    pub retrying: u64,
    /// Annotations in their stream.
    pub done: u64,
    /// Failures in their stream.
    pub failed: u64,
}

impl Total {
    pub(super) fn of(datasets: &[DatasetStatus]) -> Self {
        let sum = |count: fn(&DatasetStatus) -> u64| -> u64 { datasets.iter().map(count).sum() };
        // Unknown if that of one dataset is.
        let known = |count: fn(&DatasetStatus) -> Option<u64>| -> Option<u64> { datasets.iter().map(count).sum() };
        Self {
            queued: sum(|dataset| dataset.queued),
            waiting: known(|dataset| dataset.waiting),
            in_flight: known(|dataset| dataset.in_flight),
            retrying: sum(|dataset| dataset.retrying),
            done: sum(|dataset| dataset.done),
            failed: sum(|dataset| dataset.failed),
        }
    }
}

/// The state of one dataset.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DatasetStatus {
    /// Name.
    pub dataset: String,
    /// How far `groundling enqueue` has read the source; `None` if the jobs were submitted in another way.
    pub source: Option<SourceStatus>,
    /// Jobs in the stream of jobs: waiting or in flight.
    pub queued: u64,
    /// Those that no worker has.
    pub waiting: Option<u64>,
    /// Those that a worker has.
    pub in_flight: Option<u64>,
    /// Jobs that wait for another attempt or for their store, or are attempted again.
    pub retrying: u64,
    /// Annotations in their stream.
    pub done: u64,
    /// Failures in their stream.
    pub failed: u64,
    /// Whether jobs wait and none has ended for [`super::STALLED_AFTER`].
    pub stalled: bool,
    /// Failures by the token of their reason. Those of earlier versions, whose subject has none, are under `unknown`.
    pub failed_by_reason: BTreeMap<String, u64>,
    /// Annotations per second.
    pub images_per_second: Rates,
    /// Seconds until all jobs are done.
    pub eta_seconds: Option<Interval>,
    /// Workers that published an annotation in the last minute.
    pub workers: Option<Workers>,
    /// Seconds that workers have spent on the dataset, about.
    pub device_seconds: Option<f64>,
    /// Cost, where the price of a worker is given.
    pub cost: Option<Cost>,
}

/// How far a source has been read in the present pass.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SourceStatus {
    /// Whether it is being read.
    pub state: Option<SourceState>,
    /// Why the dataset has this state; `None` if an operator set it.
    pub reason: Option<String>,
    /// The number of passes before this one.
    pub pass: u64,
    /// Objects read, selected or not.
    #[serde(rename = "read")]
    pub objects: u64,
    /// Jobs made of them.
    pub jobs: u64,
    /// Bytes of their objects, as far as the source knows sizes.
    pub bytes: u64,
    /// Jobs that the whole source makes; unknown until it has been read to its end.
    pub total_jobs: Option<u64>,
    /// Lanes.
    pub lanes: usize,
    /// Lanes that have been read to their end.
    pub lanes_done: usize,
    /// The feeder that was started last. It may have ended.
    pub feeder: Option<String>,
    /// Seconds since it stored something.
    pub feeder_age_seconds: Option<f64>,
    /// The position of each lane.
    pub positions: Vec<Position>,
}

/// Annotations per second over several times until now. A time that is longer than the dataset's age is cut to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Over the last 10 seconds.
    pub now: Option<f64>,
    /// Over the last minute.
    pub one_minute: Option<f64>,
    /// Over the last 5 minutes.
    pub five_minutes: Option<f64>,
    /// Over the last 30 minutes.
    pub thirty_minutes: Option<f64>,
}

/// A time between two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Seconds at least.
    pub least: f64,
    /// Seconds at most.
    pub most: Option<f64>,
}

/// Number of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Workers {
    /// Those that were seen.
    pub seen: u64,
    /// Whether there may be more: not all annotations were looked at.
    pub at_least: bool,
}

/// Cost in the currency of the price.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    /// Per 1000 annotations.
    pub per_thousand: Option<f64>,
    /// So far.
    pub so_far: Option<f64>,
}
