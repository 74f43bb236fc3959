//! Errors of feeders, and of commands about datasets.

use std::io;

use broker::causes::causes;
use broker::read::ReadError;
use wire::job::JobError;

use crate::filter::FilterError;
use crate::pool::PoolError;
use crate::source::error::SourceError;

/// Why a feeder ended before the end of its source. Stored jobs stay, and the next feeder continues after them.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The tasks or options are invalid.
    #[error(transparent)]
    Recipe(#[from] JobError),
    /// The jobs are larger than the stream's limit.
    #[error(
        "a job with these tasks can have {bytes} bytes, more than the limit of the jobs stream ({limit}): shorten the tasks"
    )]
    LargeJobs {
        /// Size of the largest job in bytes.
        bytes: usize,
        /// The stream's limit in bytes.
        limit: usize,
    },
    /// A stream does not exist or cannot be read.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The filter is invalid.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The temporary files with the missing objects cannot be read.
    #[error("the temporary files cannot be read (TMPDIR names their directory): {0}")]
    Disk(io::Error),
    /// The stream was created by an earlier version.
    #[error("the stream {stream} {problem}: run `groundling setup --migrate`")]
    OldStream {
        /// The stream.
        stream: String,
        /// The problem.
        problem: &'static str,
    },
    /// Another feeder has taken over the dataset.
    #[error(
        "another feeder ({by}) has taken over the dataset {dataset}, so this one ends; its stored jobs stay. Run one feeder for each dataset"
    )]
    FencedOut {
        /// The dataset.
        dataset: String,
        /// The other feeder.
        by: String,
    },
    /// The dataset was started with other arguments.
    #[error(
        "the dataset {dataset} was started with other arguments ({differing}): use the same arguments, or another dataset"
    )]
    OtherArguments {
        /// The dataset.
        dataset: String,
        /// The arguments that differ, with both values.
        differing: String,
    },
    /// The dataset was cancelled.
    #[error(
        "the dataset {0} was cancelled: use another dataset, or `groundling enqueue --missing`, which submits the pictures without annotation"
    )]
    Cancelled(String),
    /// The source of the dataset was not read to its end.
    #[error(
        "the source of the dataset {0} has not been read to its end, so the remaining objects have not been submitted yet: run `groundling enqueue` again first"
    )]
    Unfinished(String),
    /// The dataset has one of several objects with the same ETag.
    #[error(
        "the dataset {0} was fed with --unique, so objects that were skipped count as missing: they cannot be enqueued"
    )]
    UniqueRepair(String),
    /// The sources have no objects.
    #[error("no object was found in the source of the dataset {0}, and no job was stored: check its address")]
    NoObjects(String),
    /// No object passes the filter.
    #[error(
        "none of the {read} objects of the source was selected for the dataset {dataset}, and no job was stored: check --suffix, --glob and the other conditions; the next command can have other ones"
    )]
    NoneSelected {
        /// The dataset.
        dataset: String,
        /// Objects read.
        read: u64,
    },
    /// Nothing is known of the dataset.
    #[error("nothing is known of the dataset {0}: start it with `groundling enqueue`")]
    UnknownDataset(String),
    /// Another feeder has stored another plan.
    #[error("another feeder has started another pass over the source of the dataset {0}: run the command again")]
    PlanReplaced(String),
    /// The dataset was never fed.
    #[error(
        "the dataset {0} was not submitted by `groundling enqueue`: `groundling datasets list` shows those that were"
    )]
    NoDataset(String),
    /// Another pass cannot start while jobs of the dataset wait.
    #[error(
        "{waiting} jobs of the dataset {dataset} are not done, and --missing would enqueue them again: wait until workers have done them"
    )]
    JobsWaiting {
        /// The dataset.
        dataset: String,
        /// Jobs in the jobs and retries streams.
        waiting: u64,
    },
    /// The annotations or failures cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record was written by another version.
    #[error("the message on {subject} is not a record of this version: {cause}")]
    InvalidRecord {
        /// The subject.
        subject: String,
        /// The JSON error.
        cause: serde_json::Error,
    },
    /// A request to the server failed.
    #[error("{what} failed: {cause}")]
    Broker {
        /// The request.
        what: String,
        /// The error of the server or the connection.
        cause: String,
    },
}

impl FeedError {
    pub(crate) fn broker(what: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Broker { what: what.into(), cause: causes(error) }
    }
}
