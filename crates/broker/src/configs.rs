//! The configurations of streams and consumers that the settings ask for.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use wire::subjects::{
    ANNOTATIONS_WILDCARD, ATTEMPTS_WILDCARD, CURSORS_WILDCARD, FAILED_WILDCARD, JOBS_FILTER, JOBS_WILDCARD,
    OUTCOMES_WILDCARD, RETRIES_WILDCARD, URGENT_FILTER, URGENT_WILDCARD, max_deliveries_subject,
};

use crate::settings::StreamSettings;
use crate::stream_sizes::{Bounds, set_bound};

/// Bytes of a failure beside the job that it contains: the message (at most 4 KiB), names, ids and headers.
const FAILURE_OVERHEAD: usize = 16 * 1024;
/// Maximum number of retries that are active or delayed: the server keeps about a hundred bytes in memory for each.
/// Others wait in their stream.
const RETRIES_MAX_ACK_PENDING: i64 = 100_000;
/// Maximum number of events that are being handled or were nacked with a delay, for all processes together.
const EVENTS_MAX_ACK_PENDING: i64 = 10_000;
/// The ack wait of advisories.
const ADVISORY_ACK_WAIT: Duration = Duration::from_secs(30);

/// The streams of the settings, for a server with this `max_payload`.
pub(crate) fn wanted_streams(settings: &StreamSettings, max_payload: usize) -> [stream::Config; 7] {
    let common = stream::Config {
        storage: StorageType::File,
        // A full stream refuses messages and discards none, also if it gets its bound later.
        discard: DiscardPolicy::New,
        num_replicas: settings.replicas,
        duplicate_window: settings.duplicate_window,
        ..stream::Config::default()
    };
    // A job must fit into its failure.
    let max_job = max_payload.saturating_sub(FAILURE_OVERHEAD).max(FAILURE_OVERHEAD).min(max_payload);
    let bounds = Bounds::from_settings(settings);
    let mut streams = [
        stream::Config {
            name: settings.jobs.clone(),
            description: Some("Groundling: jobs".to_owned()),
            subjects: vec![JOBS_WILDCARD.to_owned(), CURSORS_WILDCARD.to_owned(), URGENT_WILDCARD.to_owned()],
            retention: RetentionPolicy::WorkQueue,
            max_message_size: i32::try_from(max_job).unwrap_or(i32::MAX),
            // `groundling enqueue` stores jobs and its cursor in one batch.
            allow_atomic_publish: true,
            ..common.clone()
        },
        stream::Config {
            name: settings.annotations.clone(),
            description: Some("Groundling: annotations".to_owned()),
            subjects: vec![ANNOTATIONS_WILDCARD.to_owned()],
            retention: RetentionPolicy::Limits,
            max_age: settings.annotations_max_age,
            compression: Some(settings.annotations_compression.into()),
            allow_direct: true,
            ..common.clone()
        },
        stream::Config {
            name: settings.failed.clone(),
            description: Some("Groundling: failures".to_owned()),
            subjects: vec![FAILED_WILDCARD.to_owned()],
            retention: RetentionPolicy::Limits,
            max_age: settings.failed_max_age,
            allow_direct: true,
            ..common.clone()
        },
        stream::Config {
            name: settings.outcomes.clone(),
            description: Some("Groundling: outcomes of jobs, used by workers only".to_owned()),
            subjects: vec![OUTCOMES_WILDCARD.to_owned()],
            retention: RetentionPolicy::Limits,
            max_age: settings.outcomes_max_age,
            max_messages_per_subject: 1,
            // A direct get may be answered by a replica that lags; all workers must see the first outcome.
            allow_direct: false,
            // Outcomes of settled jobs are kept for a shorter time.
            allow_message_ttl: true,
            ..common.clone()
        },
        stream::Config {
            name: settings.attempts.clone(),
            description: Some("Groundling: attempts at jobs, used by workers only".to_owned()),
            subjects: vec![ATTEMPTS_WILDCARD.to_owned()],
            retention: RetentionPolicy::Limits,
            max_age: settings.outcomes_max_age,
            max_messages_per_subject: 1,
            allow_direct: false,
            ..common.clone()
        },
        stream::Config {
            name: settings.retries.clone(),
            description: Some("Groundling: jobs that wait for their next attempt, used by workers only".to_owned()),
            subjects: vec![RETRIES_WILDCARD.to_owned()],
            // Workers delete retries themselves. A work queue removes what its consumer takes for acknowledged, and after a
            // crash in a cluster a consumer can take retries for acknowledged that no worker has processed.
            retention: RetentionPolicy::Limits,
            ..common.clone()
        },
        stream::Config {
            name: settings.advisories.clone(),
            description: Some(
                "Groundling: advisories about jobs that reached max_deliver, used by workers only".to_owned(),
            ),
            subjects: vec![max_deliveries_subject(&settings.jobs, &settings.consumer)],
            retention: RetentionPolicy::WorkQueue,
            ..common
        },
    ];
    for stream in &mut streams {
        set_bound(stream, bounds.of(settings, &stream.name));
    }
    streams
}

/// The events stream, with these subjects.
pub(crate) fn wanted_events_stream(settings: &StreamSettings, subjects: Vec<String>) -> stream::Config {
    let mut wanted = stream::Config {
        name: settings.events.clone(),
        description: Some("Groundling: events of object stores".to_owned()),
        subjects,
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        // A full stream refuses events, so that a store that publishes to JetStream can try again.
        discard: DiscardPolicy::New,
        num_replicas: settings.replicas,
        duplicate_window: settings.duplicate_window,
        ..stream::Config::default()
    };
    set_bound(&mut wanted, settings.events_max_bytes);
    wanted
}

/// The consumer of the events stream.
pub(crate) fn wanted_events_consumer(settings: &StreamSettings) -> pull::Config {
    pull::Config {
        durable_name: Some(settings.events_consumer.clone()),
        description: Some("Groundling: all processes of groundling ingest".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: settings.ack_wait,
        // `groundling ingest` terminates what can never become a job. Everything else is delivered until it has.
        max_deliver: -1,
        max_ack_pending: EVENTS_MAX_ACK_PENDING,
        ..pull::Config::default()
    }
}

/// The consumer of the advisories stream.
pub(crate) fn wanted_advisory_consumer(settings: &StreamSettings) -> pull::Config {
    pull::Config {
        durable_name: Some(settings.consumer.clone()),
        description: Some("Groundling: all workers".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ADVISORY_ACK_WAIT,
        max_deliver: -1,
        // The server's default, so that the comparison finds no difference.
        max_ack_pending: 1000,
        ..pull::Config::default()
    }
}

/// The consumer of the jobs stream.
pub(crate) fn wanted_consumer(settings: &StreamSettings) -> pull::Config {
    pull::Config {
        durable_name: Some(settings.consumer.clone()),
        description: Some("Groundling: all workers".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: settings.ack_wait,
        // Workers count attempts themselves. A message that reaches this limit stays in the stream until a worker has
        // handled its advisory.
        max_deliver: settings.max_deliver,
        max_ack_pending: settings.max_ack_pending,
        // The stream also contains cursors and urgent jobs.
        filter_subject: JOBS_FILTER.to_owned(),
        ..pull::Config::default()
    }
}

/// The consumer of urgent jobs in the jobs stream. Workers limit the number of attempts, so the server does not: its
/// advisories would need another subject of the advisories stream.
pub(crate) fn wanted_urgent_consumer(settings: &StreamSettings) -> pull::Config {
    pull::Config {
        durable_name: Some(settings.urgent_consumer()),
        description: Some("Groundling: all workers, urgent jobs".to_owned()),
        max_deliver: -1,
        filter_subject: URGENT_FILTER.to_owned(),
        ..wanted_consumer(settings)
    }
}

/// The consumer of the retries stream. Workers limit the number of attempts, so the server does not. Most retries are
/// delayed rather than active, so more may be unacknowledged.
pub(crate) fn wanted_retries_consumer(settings: &StreamSettings) -> pull::Config {
    pull::Config {
        max_deliver: -1,
        max_ack_pending: RETRIES_MAX_ACK_PENDING,
        filter_subject: String::new(),
        ..wanted_consumer(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_leaves_room_for_its_failure_record() {
        let [jobs, ..] = wanted_streams(&StreamSettings::default(), 1 << 20);
        assert_eq!(jobs.max_message_size, (1 << 20) - 16 * 1024);
    }
}
