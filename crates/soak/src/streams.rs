//! The streams of a run, by what faults do to them.

use wire::subjects::{
    ADVISORIES_STREAM, ANNOTATIONS_STREAM, ATTEMPTS_STREAM, FAILED_STREAM, JOBS_STREAM, OUTCOMES_STREAM, RETRIES_STREAM,
};

/// All that the workers use: a cluster is whole again when the copies of each are. Servers are killed that lead one.
pub const ALL: [&str; 7] = [
    JOBS_STREAM,
    RETRIES_STREAM,
    ANNOTATIONS_STREAM,
    FAILED_STREAM,
    OUTCOMES_STREAM,
    ATTEMPTS_STREAM,
    ADVISORIES_STREAM,
];

/// Those that hold jobs which have not ended: a run is over when they are empty.
pub const UNFINISHED: [&str; 2] = [JOBS_STREAM, RETRIES_STREAM];

/// The work queues. Their durable consumers are changed and re-created.
pub const QUEUES: [&str; 3] = [JOBS_STREAM, RETRIES_STREAM, ADVISORIES_STREAM];

/// Those that workers publish to. They are made full.
pub const WRITTEN: [&str; 5] = [OUTCOMES_STREAM, ANNOTATIONS_STREAM, FAILED_STREAM, ATTEMPTS_STREAM, RETRIES_STREAM];
