//! Why an export ends early.

use broker::causes::causes;
use broker::read::ReadError;

use crate::pool::PoolError;

/// An export that could not go on. Finished shards stay, and the next run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The stream does not exist or cannot be opened.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The stream could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A request to the server failed.
    #[error("{what} failed: {cause}")]
    Broker {
        /// The request.
        what: String,
        /// The server's or the client's error.
        cause: String,
    },
    /// A text that names no destination.
    #[error("{0}: a destination is a directory or s3://bucket/prefix")]
    NoDestination(String),
    /// Another export writes to the directory.
    #[error("{0} is in use by another export: wait until it ends")]
    InUse(String),
    /// The destination holds an export that was begun with other arguments.
    #[error(
        "{place} holds an export with other arguments ({differing}): repeat the same ones, or choose another destination"
    )]
    OtherPlan {
        /// The destination.
        place: String,
        /// The arguments that differ, with both values.
        differing: String,
    },
    /// The stream was created again since the export was begun.
    #[error(
        "the stream {stream} was created at {found}, and {place} holds an export of the one created at {expected}: sequences have another meaning now, so choose another destination"
    )]
    OtherStream {
        /// The stream.
        stream: String,
        /// When it was created.
        found: String,
        /// The destination.
        place: String,
        /// When the exported stream was created.
        expected: String,
    },
    /// A file could not be read or written.
    #[error("{name}: {cause}")]
    File {
        /// The file or object.
        name: String,
        /// What went wrong.
        cause: String,
    },
    /// A file of the destination does not have the bytes that were written.
    #[error("{name} {problem}: nothing was removed from the stream; delete the file, and a later run makes it again")]
    Verification {
        /// The file or object.
        name: String,
        /// That it is missing, or its digest.
        problem: String,
    },
    /// A shard must be made again, and the stream does not have all of its messages any more.
    #[error(
        "{name} {problem}, and {left} of {messages} messages of its shard are left in the stream: restore the file, or choose another destination"
    )]
    Lost {
        /// The file or object.
        name: String,
        /// What is wrong with it.
        problem: String,
        /// Messages that are in the stream.
        left: u64,
        /// Messages that the shard was made of.
        messages: u64,
    },
    /// The destination has files that the export would replace, and is not known to hold this export.
    #[error(
        "{place} has {name} and no {plan}: it may hold something else, so choose an empty destination, or one with this export"
    )]
    Occupied {
        /// The destination.
        place: String,
        /// One of the files.
        name: String,
        /// The file of the plan.
        plan: &'static str,
    },
    /// Another export was begun at the destination at the same time.
    #[error("another export was begun at {0} at the same time: choose another destination")]
    BegunElsewhere(String),
    /// A time that has not come.
    #[error("--since {0} has not come yet")]
    Future(String),
    /// Categories have numbers, and there is nothing to make them of.
    #[error(
        "the dataset {0} has no annotations yet whose nouns can be the categories: wait for the first ones, or give --categories"
    )]
    NoNouns(String),
    /// A picture could not be read.
    #[error("the picture {object} cannot be read: {cause}")]
    Picture {
        /// Its bucket and key.
        object: String,
        /// What went wrong.
        cause: String,
    },
    /// A file of categories is not valid.
    #[error("{place} {problem}")]
    Categories {
        /// The file, and the line if there is one.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Repeated annotations were found in shards whose annotations were removed from the stream.
    #[error("shard {shard} must be written again without repeats, but its annotations were removed from the stream")]
    Trimmed {
        /// The shard's number.
        shard: u64,
    },
}

impl ExportError {
    pub(crate) fn broker(what: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Broker { what: what.into(), cause: causes(error) }
    }

    pub(crate) fn file(name: impl std::fmt::Display, cause: impl std::fmt::Display) -> Self {
        Self::File { name: name.to_string(), cause: cause.to_string() }
    }
}
