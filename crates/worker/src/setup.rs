//! The streams and their consumers: made where they are missing, held against the settings where they are there.
//!
//! Nothing that exists is ever changed: what its owner set may hold the only copy of an archive's jobs.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{ConsumerInfoErrorKind, CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{self, ConsumerErrorKind, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use protocol::subjects::{
    ANNOTATIONS_WILDCARD, FAILED_WILDCARD, JOBS_WILDCARD, OUTCOMES_WILDCARD, max_deliveries_subject,
};

use crate::differences::{consumer_differences, stream_differences};
use crate::promise::{consumer_errors, jobs_stream_errors, outcomes_stream_errors};
use crate::settings::StreamSettings;

/// Room in a failure record beside the job that it repeats: the message (at most 4 KiB), names, ids and headers.
const FAILURE_OVERHEAD: usize = 16 * 1024;
/// How long one worker has for one advisory.
const ADVISORY_ACK_WAIT: Duration = Duration::from_secs(30);
/// Tries to reach JetStream: a fresh cluster is healthy before it can make streams.
const TRIES: u32 = 5;

/// What is there. [`SetupReport::is_ready`] says whether workers can work with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetupReport {
    /// Made just now: "stream NAME", "consumer NAME".
    pub created: Vec<String>,
    /// There before.
    pub found: Vec<String>,
    /// Not there, and not made either.
    pub missing: Vec<String>,
    /// One sentence for each setting in which something found differs from what was asked for.
    pub differences: Vec<String>,
    /// One sentence for each setting of something found with which the promise of [`crate`] does not hold: no worker
    /// starts with them.
    pub errors: Vec<String>,
}

impl SetupReport {
    /// Everything is there and as asked for.
    pub fn is_ready(&self) -> bool {
        self.missing.is_empty() && self.differences.is_empty() && self.errors.is_empty()
    }
}

/// Why streams and consumer could not be looked at or made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A stream cannot be made because another one listens to its subjects.
    #[error(
        "the stream {name} cannot be made: another stream listens to {subject} already; remove that stream, or name it in the settings"
    )]
    SubjectTaken {
        /// The stream to be made.
        name: String,
        /// Its subject.
        subject: String,
    },
    /// JetStream answers with an error, or not at all.
    #[error(
        "JetStream did not let {what} be looked at or made: {said}; check that the server runs with JetStream and that the user may do this"
    )]
    Refused {
        /// What was to be done.
        what: String,
        /// What the server said.
        said: String,
        /// Whether it may pass by itself: no answer, a cluster without a leader.
        may_pass: bool,
    },
}

impl SetupError {
    /// Whether the same may go well later without anybody's doing.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Refused { may_pass: true, .. })
    }
}

/// Whether JetStream says this for a while only: it has no leader yet, or is being started.
fn passes(said: &async_nats::jetstream::Error) -> bool {
    matches!(
        said.error_code(),
        ErrorCode::CLUSTER_NOT_AVAILABLE
            | ErrorCode::CLUSTER_NOT_ACTIVE
            | ErrorCode::CLUSTER_NOT_LEADER
            | ErrorCode::CLUSTER_INCOMPLETE
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::STREAM_OFFLINE
            | ErrorCode::CONSUMER_OFFLINE
    )
}

/// Makes what is missing and holds the rest against the settings. Doing it twice does no more than doing it once.
///
/// # Errors
/// [`SetupError`]; what was made until then stays.
pub async fn setup(jetstream: &Context, settings: &StreamSettings) -> Result<SetupReport, SetupError> {
    go_through(jetstream, settings, true).await
}

/// As [`setup`], but makes nothing.
///
/// # Errors
/// [`SetupError::Refused`].
pub async fn check(jetstream: &Context, settings: &StreamSettings) -> Result<SetupReport, SetupError> {
    go_through(jetstream, settings, false).await
}

async fn go_through(jetstream: &Context, settings: &StreamSettings, make: bool) -> Result<SetupReport, SetupError> {
    let mut report = SetupReport::default();
    let mut found_streams = Vec::new();
    for wanted in wanted_streams(settings, jetstream.client().max_payload()) {
        let what = format!("stream {}", wanted.name);
        let found = match (find_stream(jetstream, &wanted.name).await?, make) {
            (Some(found), _) => {
                let config = &found.cached_info().config;
                report.differences.extend(stream_differences(&wanted, config));
                if config.name == settings.jobs {
                    report.errors.extend(jobs_stream_errors(config));
                } else if config.name == settings.outcomes {
                    report.errors.extend(outcomes_stream_errors(config));
                }
                report.found.push(what);
                Some(found)
            }
            (None, true) => {
                let made = make_stream(jetstream, &wanted).await?;
                report.created.push(what);
                Some(made)
            }
            (None, false) => {
                report.missing.push(what);
                None
            }
        };
        found_streams.push(found);
    }
    let [jobs, advisories] = [&settings.jobs, &settings.advisories]
        .map(|name| found_streams.iter().flatten().find(|stream| stream.cached_info().config.name == *name));
    for (stream, wanted, of) in
        [(jobs, wanted_consumer(settings), ""), (advisories, wanted_advisory_consumer(settings), " of the advisories")]
    {
        let what = format!("consumer {}{of}", settings.consumer);
        match stream {
            None => report.missing.push(what),
            Some(stream) => consumer(stream, wanted, make, what, &settings.jobs, &mut report).await?,
        }
    }
    Ok(report)
}

async fn consumer(
    of: &stream::Stream,
    wanted: pull::Config,
    make: bool,
    what: String,
    jobs: &str,
    report: &mut SetupReport,
) -> Result<(), SetupError> {
    match of.consumer_info(wanted.durable_name.as_deref().unwrap_or_default()).await {
        Ok(found) => {
            report.differences.extend(consumer_differences(&wanted, &found.config));
            if of.cached_info().config.name == jobs {
                report.errors.extend(consumer_errors(&found.config));
            }
            report.found.push(what);
        }
        Err(error) if error.kind() != ConsumerInfoErrorKind::NotFound => {
            use ConsumerInfoErrorKind as Kind;
            let may_pass = match error.kind() {
                Kind::Request | Kind::TimedOut | Kind::NoResponders | Kind::Offline => true,
                Kind::JetStream(said) => passes(&said),
                Kind::InvalidName | Kind::NotFound | Kind::StreamNotFound => false,
            };
            return Err(SetupError::Refused { what, said: error.to_string(), may_pass });
        }
        Err(_) if make => {
            // Strict: if another setup came first with other settings, that is to be said and not overwritten.
            of.create_consumer_strict(wanted).await.map_err(|error| SetupError::Refused {
                what: what.clone(),
                said: error.to_string(),
                may_pass: false,
            })?;
            report.created.push(what);
        }
        Err(_) => report.missing.push(what),
    }
    Ok(())
}

fn wanted_streams(settings: &StreamSettings, max_payload: usize) -> [stream::Config; 5] {
    let common = stream::Config {
        storage: StorageType::File,
        num_replicas: settings.replicas,
        duplicate_window: settings.duplicate_window,
        ..stream::Config::default()
    };
    // A job must fit into its own failure record.
    let max_job = max_payload.saturating_sub(FAILURE_OVERHEAD).max(FAILURE_OVERHEAD).min(max_payload);
    [
        stream::Config {
            name: settings.jobs.clone(),
            description: Some("Groundling: pictures to annotate".to_owned()),
            subjects: vec![JOBS_WILDCARD.to_owned()],
            retention: RetentionPolicy::WorkQueue,
            // If somebody bounds the stream, submitters are to be refused; no job is to vanish.
            discard: DiscardPolicy::New,
            max_message_size: i32::try_from(max_job).unwrap_or(i32::MAX),
            ..common.clone()
        },
        stream::Config {
            name: settings.annotations.clone(),
            description: Some("Groundling: annotations of pictures".to_owned()),
            subjects: vec![ANNOTATIONS_WILDCARD.to_owned()],
            retention: RetentionPolicy::Limits,
            max_age: settings.annotations_max_age,
            allow_direct: true,
            ..common.clone()
        },
        stream::Config {
            name: settings.failed.clone(),
            description: Some("Groundling: jobs that were given up".to_owned()),
            subjects: vec![FAILED_WILDCARD.to_owned()],
            retention: RetentionPolicy::Limits,
            max_age: settings.failed_max_age,
            allow_direct: true,
            ..common.clone()
        },
        stream::Config {
            name: settings.outcomes.clone(),
            description: Some("Groundling: what becomes of jobs, between workers only".to_owned()),
            subjects: vec![OUTCOMES_WILDCARD.to_owned()],
            retention: RetentionPolicy::Limits,
            max_age: settings.outcomes_max_age,
            max_messages_per_subject: 1,
            // A direct read may come from a copy that is behind; the first outcome counts only if all see it.
            allow_direct: false,
            ..common.clone()
        },
        stream::Config {
            name: settings.advisories.clone(),
            description: Some("Groundling: jobs that the server gave up handing out".to_owned()),
            subjects: vec![max_deliveries_subject(&settings.jobs, &settings.consumer)],
            retention: RetentionPolicy::WorkQueue,
            ..common
        },
    ]
}

fn wanted_advisory_consumer(settings: &StreamSettings) -> pull::Config {
    pull::Config {
        durable_name: Some(settings.consumer.clone()),
        description: Some("Groundling: all workers".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ADVISORY_ACK_WAIT,
        max_deliver: -1,
        // As the server fills it in: what differs is to be told.
        max_ack_pending: 1000,
        ..pull::Config::default()
    }
}

fn wanted_consumer(settings: &StreamSettings) -> pull::Config {
    pull::Config {
        durable_name: Some(settings.consumer.clone()),
        description: Some("Groundling: all workers".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: settings.ack_wait,
        // The workers count themselves. Past this limit, which ends what no worker comes to count, a message stays in
        // the queue until its advisory is read.
        max_deliver: settings.max_deliver,
        max_ack_pending: settings.max_ack_pending,
        ..pull::Config::default()
    }
}

async fn find_stream(jetstream: &Context, name: &str) -> Result<Option<stream::Stream>, SetupError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let error = match jetstream.get_stream(name).await {
            Ok(found) => return Ok(Some(found)),
            Err(error) => error,
        };
        match error.kind() {
            GetStreamErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_NOT_FOUND => return Ok(None),
            GetStreamErrorKind::Request if tries < TRIES => tokio::time::sleep(Duration::from_secs(1)).await,
            kind => {
                let may_pass = match kind {
                    GetStreamErrorKind::Request => true,
                    GetStreamErrorKind::JetStream(said) => passes(&said),
                    GetStreamErrorKind::EmptyName | GetStreamErrorKind::InvalidStreamName => false,
                };
                return Err(SetupError::Refused { what: format!("stream {name}"), said: error.to_string(), may_pass });
            }
        }
    }
}

async fn make_stream(jetstream: &Context, wanted: &stream::Config) -> Result<stream::Stream, SetupError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let error = match jetstream.create_stream(wanted.clone()).await {
            Ok(made) => return Ok(made),
            Err(error) => error,
        };
        match error.kind() {
            CreateStreamErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_SUBJECT_OVERLAP => {
                let subject = wanted.subjects.join(", ");
                return Err(SetupError::SubjectTaken { name: wanted.name.clone(), subject });
            }
            CreateStreamErrorKind::JetStreamUnavailable | CreateStreamErrorKind::TimedOut if tries < TRIES => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            _ => {
                let what = format!("stream {}", wanted.name);
                return Err(SetupError::Refused { what, said: error.to_string(), may_pass: false });
            }
        }
    }
}

/// The consumer that the workers pull from; `None` if the stream or the consumer is missing.
///
/// # Errors
/// [`SetupError::Refused`] if it cannot be looked at, or is no pull consumer.
pub async fn find_consumer(jetstream: &Context, settings: &StreamSettings) -> Result<Option<PullConsumer>, SetupError> {
    find_consumer_of(jetstream, settings, &settings.jobs).await
}

/// The consumer of the server's word that it gave up a job; as [`find_consumer`].
///
/// # Errors
/// As [`find_consumer`].
pub async fn find_advisory_consumer(
    jetstream: &Context,
    settings: &StreamSettings,
) -> Result<Option<PullConsumer>, SetupError> {
    find_consumer_of(jetstream, settings, &settings.advisories).await
}

async fn find_consumer_of(
    jetstream: &Context,
    settings: &StreamSettings,
    stream: &str,
) -> Result<Option<PullConsumer>, SetupError> {
    match jetstream.get_consumer_from_stream(&settings.consumer, stream).await {
        Ok(consumer) => Ok(Some(consumer)),
        Err(error) => match error.kind() {
            ConsumerErrorKind::JetStream(said)
                if matches!(said.error_code(), ErrorCode::STREAM_NOT_FOUND | ErrorCode::CONSUMER_NOT_FOUND) =>
            {
                Ok(None)
            }
            kind => {
                let may_pass = match kind {
                    ConsumerErrorKind::TimedOut | ConsumerErrorKind::Request => true,
                    ConsumerErrorKind::JetStream(said) => passes(&said),
                    _ => false,
                };
                let what = format!("consumer {}", settings.consumer);
                Err(SetupError::Refused { what, said: error.to_string(), may_pass })
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_does_not_differ_from_itself() {
        for wanted in wanted_streams(&StreamSettings::default(), 1 << 20) {
            assert!(stream_differences(&wanted, &wanted).is_empty());
        }
    }

    #[test]
    fn each_difference_is_one_sentence_that_names_both_values() {
        let [jobs, ..] = wanted_streams(&StreamSettings::default(), 1 << 20);
        let found = stream::Config { retention: RetentionPolicy::Limits, max_message_size: -1, ..jobs.clone() };
        assert_eq!(
            stream_differences(&jobs, &found),
            [
                "stream GROUNDLING_JOBS has the retention Limits, and the settings say WorkQueue",
                "stream GROUNDLING_JOBS has the greatest message size -1, and the settings say 1032192",
            ]
        );
    }

    #[test]
    fn a_job_leaves_room_for_its_failure_record() {
        let [jobs, ..] = wanted_streams(&StreamSettings::default(), 1 << 20);
        assert_eq!(jobs.max_message_size, (1 << 20) - 16 * 1024);
    }
}
