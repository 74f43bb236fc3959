//! The streams and their consumers: made where they are missing, held against the settings where they are there.
//!
//! Nothing that exists is ever changed: what its owner set may hold the only copy of an archive's jobs.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use wire::subjects::{
    ANNOTATIONS_WILDCARD, ATTEMPTS_WILDCARD, CURSORS_WILDCARD, FAILED_WILDCARD, JOBS_FILTER, JOBS_WILDCARD,
    OUTCOMES_WILDCARD, RETRIES_WILDCARD, max_deliveries_subject,
};

pub use crate::api::{Broker, SetupError};
use crate::api::{Failure, RequestFailure};
use crate::differences::{consumer_differences, stream_differences};
use crate::settings::StreamSettings;
use crate::stream_rules::{consumer_errors, jobs_stream_errors, outcomes_stream_errors};
use crate::stream_sizes::{Sizes, Storage, Taken, set_bound};

/// Room in a failure record beside the job that it repeats: the message (at most 4 KiB), names, ids and headers.
const FAILURE_OVERHEAD: usize = 16 * 1024;
/// Most retries that are in hand or in their delay: the server keeps some hundred bytes in memory for each. Beyond that
/// they wait in their stream.
const RETRIES_MAX_ACK_PENDING: i64 = 100_000;
/// How long one worker has for one advisory.
const ADVISORY_ACK_WAIT: Duration = Duration::from_secs(30);

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

/// Makes what is missing and holds the rest against the settings. Doing it twice does no more than doing it once.
///
/// # Errors
/// [`SetupError`]; what was made until then stays.
pub async fn setup(broker: impl Into<Broker>, settings: &StreamSettings) -> Result<SetupReport, SetupError> {
    go_through(&broker.into(), settings, true).await
}

/// As [`setup`], but makes nothing.
///
/// # Errors
/// [`SetupError`].
pub async fn check(broker: impl Into<Broker>, settings: &StreamSettings) -> Result<SetupReport, SetupError> {
    go_through(&broker.into(), settings, false).await
}

async fn go_through(broker: &Broker, settings: &StreamSettings, make: bool) -> Result<SetupReport, SetupError> {
    let mut report = SetupReport::default();
    let mut found_streams = Vec::new();
    let mut looked_at = Vec::new();
    for mut wanted in wanted_streams(settings, broker.jetstream.client().max_payload()) {
        // Older servers cannot be asked for it.
        wanted.allow_message_ttl &= broker.jetstream.client().is_server_compatible(2, 11, 0);
        wanted.allow_atomic_publish &= broker.jetstream.client().is_server_compatible(2, 12, 0);
        let found = find_stream(broker, &wanted.name).await?;
        looked_at.push((wanted, found));
    }
    let own: Vec<Taken> =
        looked_at.iter().filter_map(|(_, found)| found.as_ref()).map(|found| found.cached_info().into()).collect();
    let mut storage = Storage::new(broker, settings, own);
    for (mut wanted, found) in looked_at {
        let what = format!("stream {}", wanted.name);
        let found = match (found, make) {
            (Some(found), _) => {
                let config = &found.cached_info().config;
                if make && config.name == settings.jobs {
                    report.differences.extend(storage.unbounded_jobs(config).await?);
                }
                report.differences.extend(stream_differences(&wanted, config));
                if config.name == settings.jobs || config.name == settings.retries {
                    report.errors.extend(jobs_stream_errors(config));
                } else if config.name == settings.outcomes {
                    report.errors.extend(outcomes_stream_errors(config));
                }
                report.found.push(what);
                Some(found)
            }
            (None, true) => {
                storage.bound(&mut wanted).await?;
                let made = make_stream(broker, &wanted).await?;
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
    for (name, wanted, of) in [
        (&settings.jobs, wanted_consumer(settings), ""),
        (&settings.retries, wanted_retries_consumer(settings), " of the retries"),
        (&settings.advisories, wanted_advisory_consumer(settings), " of the advisories"),
    ] {
        let stream = found_streams.iter().flatten().find(|stream| stream.cached_info().config.name == *name);
        let what = format!("consumer {}{of}", settings.consumer);
        match stream {
            None => report.missing.push(what),
            Some(stream) => consumer(broker, stream, wanted, make, what, settings, &mut report).await?,
        }
    }
    Ok(report)
}

async fn consumer(
    broker: &Broker,
    of: &stream::Stream,
    wanted: pull::Config,
    make: bool,
    what: String,
    settings: &StreamSettings,
    report: &mut SetupReport,
) -> Result<(), SetupError> {
    let (stream, name) = (&of.cached_info().config.name, wanted.durable_name.as_deref().unwrap_or_default());
    if let Some(found) = broker.ask(&what, stream, || of.consumer_info(name)).await? {
        report.differences.extend(consumer_differences(&what, &wanted, &found.config));
        if *stream == settings.jobs || *stream == settings.retries {
            report.errors.extend(consumer_errors(&found.config));
        }
        report.found.push(what);
    } else if make {
        // Strict: if another setup came first with other settings, that is to be said and not overwritten.
        let create = || of.create_consumer_strict(wanted.clone());
        match broker.ask(&what, stream, create).await? {
            Some(_) => report.created.push(what),
            None => report.missing.push(what),
        }
    } else {
        report.missing.push(what);
    }
    Ok(())
}

fn wanted_streams(settings: &StreamSettings, max_payload: usize) -> [stream::Config; 7] {
    let common = stream::Config {
        storage: StorageType::File,
        num_replicas: settings.replicas,
        duplicate_window: settings.duplicate_window,
        ..stream::Config::default()
    };
    // A job must fit into its own failure record.
    let max_job = max_payload.saturating_sub(FAILURE_OVERHEAD).max(FAILURE_OVERHEAD).min(max_payload);
    let sizes = Sizes::of_settings(settings);
    let mut streams = [
        stream::Config {
            name: settings.jobs.clone(),
            description: Some("Groundling: pictures to annotate".to_owned()),
            subjects: vec![JOBS_WILDCARD.to_owned(), CURSORS_WILDCARD.to_owned()],
            retention: RetentionPolicy::WorkQueue,
            // When the stream is full, submitters are refused; no job vanishes.
            discard: DiscardPolicy::New,
            max_message_size: i32::try_from(max_job).unwrap_or(i32::MAX),
            // `groundling enqueue` stores jobs and its cursor together.
            allow_atomic_publish: true,
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
            // Outcomes of jobs that are settled have an age of their own.
            allow_message_ttl: true,
            ..common.clone()
        },
        stream::Config {
            name: settings.attempts.clone(),
            description: Some("Groundling: attempts at jobs, between workers only".to_owned()),
            subjects: vec![ATTEMPTS_WILDCARD.to_owned()],
            retention: RetentionPolicy::Limits,
            max_age: settings.outcomes_max_age,
            max_messages_per_subject: 1,
            allow_direct: false,
            ..common.clone()
        },
        stream::Config {
            name: settings.retries.clone(),
            description: Some("Groundling: jobs between two attempts, between workers only".to_owned()),
            subjects: vec![RETRIES_WILDCARD.to_owned()],
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            ..common.clone()
        },
        stream::Config {
            name: settings.advisories.clone(),
            description: Some("Groundling: jobs that the server gave up handing out".to_owned()),
            subjects: vec![max_deliveries_subject(&settings.jobs, &settings.consumer)],
            retention: RetentionPolicy::WorkQueue,
            ..common
        },
    ];
    for stream in &mut streams {
        set_bound(stream, sizes.of(settings, &stream.name));
    }
    streams
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
        // Cursors are in the same stream.
        filter_subject: JOBS_FILTER.to_owned(),
        ..pull::Config::default()
    }
}

/// Retries have an end of their own, so the server never gives one up; and they wait for longer than they are in hand.
fn wanted_retries_consumer(settings: &StreamSettings) -> pull::Config {
    pull::Config {
        max_deliver: -1,
        max_ack_pending: RETRIES_MAX_ACK_PENDING,
        filter_subject: String::new(),
        ..wanted_consumer(settings)
    }
}

async fn find_stream(broker: &Broker, name: &str) -> Result<Option<stream::Stream>, SetupError> {
    broker.ask(&format!("stream {name}"), name, || broker.jetstream.get_stream(name)).await
}

async fn make_stream(broker: &Broker, wanted: &stream::Config) -> Result<stream::Stream, SetupError> {
    let what = format!("stream {}", wanted.name);
    let create = || async {
        match broker.jetstream.create_stream(wanted.clone()).await {
            Err(error) => match refused_for_good(error.failure(), wanted) {
                Some(refused) => Ok(Err(refused)),
                None => Err(error),
            },
            Ok(made) => Ok(Ok(made)),
        }
    };
    match broker.ask(&what, &wanted.name, create).await? {
        Some(made) => made,
        None => Err(SetupError::Refused { what, said: "it vanished while it was made".to_owned(), may_pass: true }),
    }
}

/// What keeps a stream from being made until somebody changes the server or the settings.
fn refused_for_good(failure: Failure, wanted: &stream::Config) -> Option<SetupError> {
    let Failure::Said(said) = failure else { return None };
    let name = wanted.name.clone();
    match said.error_code() {
        ErrorCode::STREAM_SUBJECT_OVERLAP => {
            Some(SetupError::SubjectTaken { name, subject: wanted.subjects.join(", ") })
        }
        ErrorCode::STORAGE_RESOURCES_EXCEEDED | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => {
            Some(SetupError::NoStorage { name, bytes: wanted.max_bytes, said: said.to_string() })
        }
        _ => None,
    }
}

/// The consumer that the workers pull from; `None` if the stream or the consumer is missing.
///
/// # Errors
/// [`SetupError`] if it cannot be looked at, or is no pull consumer.
pub async fn find_consumer(
    broker: impl Into<Broker>,
    settings: &StreamSettings,
) -> Result<Option<PullConsumer>, SetupError> {
    find_consumer_of(&broker.into(), settings, &settings.jobs).await
}

/// The consumer of jobs that wait for their next attempt; as [`find_consumer`].
///
/// # Errors
/// As [`find_consumer`].
pub async fn find_retries_consumer(
    broker: impl Into<Broker>,
    settings: &StreamSettings,
) -> Result<Option<PullConsumer>, SetupError> {
    find_consumer_of(&broker.into(), settings, &settings.retries).await
}

/// The consumer of the server's word that it gave up a job; as [`find_consumer`].
///
/// # Errors
/// As [`find_consumer`].
pub async fn find_advisory_consumer(
    broker: impl Into<Broker>,
    settings: &StreamSettings,
) -> Result<Option<PullConsumer>, SetupError> {
    find_consumer_of(&broker.into(), settings, &settings.advisories).await
}

async fn find_consumer_of(
    broker: &Broker,
    settings: &StreamSettings,
    stream: &str,
) -> Result<Option<PullConsumer>, SetupError> {
    let what = format!("consumer {}", settings.consumer);
    let find = || broker.jetstream.get_consumer_from_stream(&settings.consumer, stream);
    broker.ask(&what, stream, find).await
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
