//! The feeder: reads sources and stores a job for each object exactly once, however often it is killed and restarted.

mod annotated;
pub(crate) mod batch;
mod control;
mod cursors;
mod datasets;
mod error;
mod failure_rate;
mod lane;
mod planning;
mod pool_rate;
mod progress;
mod reading;
mod records;
mod repair;
mod run;
mod seen_etags;
mod types;
mod watermark;

pub use annotated::Annotated;
pub use datasets::{Cancelled, DatasetSummary, Datasets};
pub use error::FeedError;
pub use pool_rate::pool_rate;
pub use progress::{Progress, Snapshot};
pub use records::{Counts, Cursor, DatasetState, FeederRecord, MANIFESTS_ARGUMENT, Plan, SourceState, StateRecord};
pub use repair::Repair;
pub use types::{Feed, MIN_MAX_WAITING, Summary, Target};
