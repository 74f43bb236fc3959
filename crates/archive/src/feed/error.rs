//! Why a feeder ends before its source.

use broker::causes::causes;
use wire::job::JobError;

use crate::source::error::SourceError;

/// A feeder that could not go on. What it stored stays, and the next one goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The tasks or options break the rules for jobs.
    #[error(transparent)]
    Recipe(#[from] JobError),
    /// The jobs are larger than the stream takes.
    #[error("jobs with these tasks can have {bytes} bytes, and the stream of jobs takes {most}: shorten the tasks")]
    LargeJobs {
        /// Size of the largest job in bytes.
        bytes: usize,
        /// What the stream takes in bytes.
        most: usize,
    },
    /// The stream is not there.
    #[error("the stream {0} is not there: run `groundling setup`")]
    NoStream(String),
    /// The stream is that of an earlier version.
    #[error("the stream {stream} {problem}: run `groundling setup --migrate`")]
    OldStream {
        /// The stream.
        stream: String,
        /// What it lacks.
        problem: &'static str,
    },
    /// Another feeder has taken the dataset over.
    #[error(
        "another feeder ({by}) has taken over the dataset {dataset}: this one ends, everything it stored counts; run only one at a time"
    )]
    FencedOut {
        /// The dataset.
        dataset: String,
        /// The other feeder.
        by: String,
    },
    /// The dataset was begun with other arguments.
    #[error(
        "the dataset {dataset} was begun with other arguments ({differing}): repeat the same ones, or choose another dataset"
    )]
    OtherPlan {
        /// The dataset.
        dataset: String,
        /// Which of them.
        differing: String,
    },
    /// The source of the dataset was not read to its end.
    #[error(
        "the source of the dataset {0} has not been read to its end, so objects are missing that have not had their turn: repeat `groundling enqueue` first"
    )]
    Unfinished(String),
    /// The dataset takes one of several equal objects.
    #[error(
        "the dataset {0} was fed with --unique: objects that were left out count as missing, and submitting them is refused"
    )]
    UniqueRepair(String),
    /// A cursor that this version cannot read.
    #[error("{subject} holds something that is not readable as this version's: {cause}")]
    Unreadable {
        /// The subject.
        subject: String,
        /// Why not.
        cause: serde_json::Error,
    },
    /// The server does not do what was asked.
    #[error("{what} failed: {cause}")]
    Broker {
        /// What was asked.
        what: String,
        /// What the server or the connection said.
        cause: String,
    },
}

impl FeedError {
    pub(crate) fn broker(what: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Broker { what: what.into(), cause: causes(error) }
    }
}
