//! The streams of a run, grouped by the faults that affect them.

use wire::subjects::{
    ADVISORIES_STREAM, ANNOTATIONS_STREAM, ATTEMPTS_STREAM, EVENTS_STREAM, FAILED_STREAM, JOBS_STREAM, OUTCOMES_STREAM,
    RETRIES_STREAM,
};

/// All streams. A cluster has recovered when the replicas of all of them are current.
pub const ALL: [&str; 8] = [
    EVENTS_STREAM,
    JOBS_STREAM,
    RETRIES_STREAM,
    ANNOTATIONS_STREAM,
    FAILED_STREAM,
    OUTCOMES_STREAM,
    ATTEMPTS_STREAM,
    ADVISORIES_STREAM,
];

/// The streams of events and unfinished jobs, in the order in which these pass through them. A run is over when they are
/// empty.
pub const UNFINISHED: [&str; 3] = [EVENTS_STREAM, JOBS_STREAM, RETRIES_STREAM];

/// The work queues, whose durable consumers are changed and created again.
pub const QUEUES: [&str; 3] = [JOBS_STREAM, RETRIES_STREAM, ADVISORIES_STREAM];

/// The streams that workers publish to. Faults fill them.
pub const WRITTEN: [&str; 5] = [OUTCOMES_STREAM, ANNOTATIONS_STREAM, FAILED_STREAM, ATTEMPTS_STREAM, RETRIES_STREAM];
