//! The streams of a run, grouped by the faults that affect them, and their states for the report of a run.

use async_nats::jetstream::Context;
use futures::TryStreamExt;
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

/// A line for each stream and for each of its consumers, for the report of a run that lost jobs: whether the server has
/// their messages, and counts them as acknowledged.
pub(crate) async fn describe(jetstream: &Context) -> Vec<String> {
    let mut lines = Vec::new();
    for name in ALL {
        if let Err(error) = describe_one(jetstream, name, &mut lines).await {
            lines.push(format!("{name} cannot be read: {error}"));
        }
    }
    lines
}

async fn describe_one(jetstream: &Context, name: &str, lines: &mut Vec<String>) -> Result<(), async_nats::Error> {
    let stream = jetstream.get_stream(name).await?;
    let (state, cluster) = (&stream.cached_info().state, stream.cached_info().cluster.as_ref());
    let leader = cluster.and_then(|cluster| cluster.leader.as_deref()).unwrap_or("no cluster");
    lines.push(format!(
        "{name} at {leader}: {} messages, sequences {} to {}",
        state.messages, state.first_sequence, state.last_sequence
    ));
    let consumers: Vec<_> = stream.consumers().try_collect().await?;
    lines.extend(consumers.iter().map(|consumer| {
        format!(
            "{name} > {}: delivered {}, acknowledged to {}, {} without acknowledgement, {} not delivered",
            consumer.name,
            consumer.delivered.stream_sequence,
            consumer.ack_floor.stream_sequence,
            consumer.num_ack_pending,
            consumer.num_pending
        )
    }));
    Ok(())
}
