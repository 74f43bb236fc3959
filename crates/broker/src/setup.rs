//! Creates missing streams and consumers, and compares existing ones with the settings.
//!
//! Existing streams and consumers are never changed: they may hold the only copy of an archive's jobs.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::stream::{self, RetentionPolicy};
use wire::subjects::URGENT_WILDCARD;

use crate::api::{ApiError, ApiErrorKind};
pub use crate::api::{Broker, SetupError};
use crate::configs::{
    wanted_advisory_consumer, wanted_consumer, wanted_retries_consumer, wanted_streams, wanted_urgent_consumer,
};
use crate::differences::{consumer_differences, stream_differences};
use crate::settings::StreamSettings;
use crate::stream_rules::{
    consumer_errors, failed_stream_errors, jobs_stream_errors, outcomes_stream_errors, retries_stream_errors,
};
use crate::stream_sizes::{Storage, StorageUse};

/// The state of the streams and consumers. [`SetupReport::is_ready`] says whether workers can start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetupReport {
    /// Streams and consumers that were created: "stream NAME", "consumer NAME".
    pub created: Vec<String>,
    /// Those that existed before.
    pub found: Vec<String>,
    /// Those that do not exist and were not created.
    pub missing: Vec<String>,
    /// One sentence for each difference between an existing stream or consumer and the settings.
    pub differences: Vec<String>,
    /// One sentence for each setting of an existing stream or consumer with which jobs could be lost or done twice
    /// ([`crate::stream_rules`]). Workers do not start with them.
    pub errors: Vec<String>,
}

impl SetupReport {
    /// Adds what another report says.
    pub fn extend(&mut self, other: Self) {
        self.created.extend(other.created);
        self.found.extend(other.found);
        self.missing.extend(other.missing);
        self.differences.extend(other.differences);
        self.errors.extend(other.errors);
    }

    /// Whether everything exists as the settings say.
    pub fn is_ready(&self) -> bool {
        self.missing.is_empty() && self.differences.is_empty() && self.errors.is_empty()
    }
}

/// Creates missing streams and consumers, and compares existing ones with the settings. A second call creates nothing.
///
/// ```no_run
/// use broker::settings::{NatsSettings, StreamSettings};
/// use broker::{connection, setup};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let (nats, streams) = (NatsSettings::default(), StreamSettings { replicas: 3, ..StreamSettings::default() });
/// let connection = connection::open(&nats, "setup").await?;
/// let report = setup::setup(connection.broker(&nats), &streams).await?;
/// for difference in &report.differences {
///     eprintln!("{difference}");
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`SetupError`]. Streams and consumers created before the error stay.
pub async fn setup(broker: impl Into<Broker>, settings: &StreamSettings) -> Result<SetupReport, SetupError> {
    create_or_compare(&broker.into(), settings, true).await
}

/// Like [`setup`], but creates nothing.
///
/// # Errors
/// [`SetupError`] if a stream or consumer cannot be read.
pub async fn check(broker: impl Into<Broker>, settings: &StreamSettings) -> Result<SetupReport, SetupError> {
    create_or_compare(&broker.into(), settings, false).await
}

async fn create_or_compare(
    broker: &Broker,
    settings: &StreamSettings,
    create: bool,
) -> Result<SetupReport, SetupError> {
    let mut report = SetupReport::default();
    let mut streams = Vec::new();
    let mut lookups = Vec::new();
    // Before the first answer, a client that is still connecting knows neither the server's version nor its limits.
    find_stream(broker, &settings.jobs).await?;
    for mut wanted in wanted_streams(settings, broker.jetstream.client().max_payload()) {
        // Older servers reject these.
        wanted.allow_message_ttl &= broker.jetstream.client().is_server_compatible(2, 11, 0);
        wanted.allow_atomic_publish &= broker.jetstream.client().is_server_compatible(2, 12, 0);
        let found = find_stream(broker, &wanted.name).await?;
        lookups.push((wanted, found));
    }
    let own = storage_use(lookups.iter().filter_map(|(_, found)| found.as_ref()));
    let mut storage = Storage::new(broker, settings, own);
    for (mut wanted, found) in lookups {
        let what = format!("stream {}", wanted.name);
        let found = match (found, create) {
            (Some(found), _) => {
                let config = &found.cached_info().config;
                if create && config.name == settings.jobs {
                    report.differences.extend(storage.unbounded_jobs(config).await?);
                }
                report.differences.extend(stream_differences(&wanted, config, migrated(settings, &wanted, config)));
                if config.name == settings.jobs {
                    report.errors.extend(jobs_stream_errors(config));
                } else if config.name == settings.retries {
                    report.errors.extend(retries_stream_errors(config));
                } else if config.name == settings.outcomes {
                    report.errors.extend(outcomes_stream_errors(config));
                } else if config.name == settings.failed {
                    report.errors.extend(failed_stream_errors(config));
                }
                report.found.push(what);
                Some(found)
            }
            (None, true) => {
                storage.bound(&mut wanted).await?;
                let created = create_stream(broker, &wanted).await?;
                report.created.push(what);
                Some(created)
            }
            (None, false) => {
                report.missing.push(what);
                None
            }
        };
        streams.push(found);
    }
    for (name, wanted, of) in [
        (&settings.jobs, wanted_consumer(settings), ""),
        (&settings.retries, wanted_retries_consumer(settings), " of the retries"),
        (&settings.advisories, wanted_advisory_consumer(settings), " of the advisories"),
    ] {
        let stream = streams.iter().flatten().find(|stream| stream.cached_info().config.name == *name);
        let what = format!("consumer {}{of}", settings.consumer);
        match stream {
            None => report.missing.push(what),
            Some(stream) => {
                create_or_compare_consumer(broker, stream, wanted, create, what, settings, &mut report).await?
            }
        }
    }
    match streams.iter().flatten().find(|stream| stream.cached_info().config.name == settings.jobs) {
        None => report.missing.push(format!("consumer {}", settings.urgent_consumer())),
        Some(stream) => create_or_compare_urgent_consumer(broker, stream, create, settings, &mut report).await?,
    }
    Ok(report)
}

pub(crate) fn storage_use<'a>(streams: impl Iterator<Item = &'a stream::Stream>) -> Vec<StorageUse> {
    streams.map(|stream| stream.cached_info().into()).collect()
}

/// Workers can do without this consumer: a missing one is a difference.
async fn create_or_compare_urgent_consumer(
    broker: &Broker,
    stream: &stream::Stream,
    create: bool,
    settings: &StreamSettings,
    report: &mut SetupReport,
) -> Result<(), SetupError> {
    // Without the subject, the server would refuse the consumer. The missing subject is a difference of its own.
    if !stream.cached_info().config.subjects.iter().any(|subject| subject == URGENT_WILDCARD) {
        return Ok(());
    }
    let what = format!("consumer {}", settings.urgent_consumer());
    let missing = report.missing.len();
    create_or_compare_consumer(broker, stream, wanted_urgent_consumer(settings), create, what, settings, report)
        .await?;
    for what in report.missing.drain(missing..) {
        report.differences.push(format!(
            "{what} does not exist, so workers take no urgent jobs: run `groundling setup --migrate` and restart them"
        ));
    }
    Ok(())
}

pub(crate) async fn create_or_compare_consumer(
    broker: &Broker,
    stream: &stream::Stream,
    wanted: pull::Config,
    create: bool,
    what: String,
    settings: &StreamSettings,
    report: &mut SetupReport,
) -> Result<(), SetupError> {
    let (stream_name, name) = (&stream.cached_info().config.name, wanted.durable_name.as_deref().unwrap_or_default());
    if let Some(found) = broker.request(&what, stream_name, || stream.consumer_info(name)).await? {
        report.differences.extend(consumer_differences(&what, &wanted, &found.config));
        if [&settings.jobs, &settings.retries, &settings.events].contains(&stream_name) {
            report.errors.extend(consumer_errors(&found.config));
        }
        report.found.push(what);
    } else if create {
        // Strict: a consumer that another setup has created meanwhile with other settings is not overwritten.
        let request = || stream.create_consumer_strict(wanted.clone());
        match broker.request(&what, stream_name, request).await? {
            Some(_) => report.created.push(what),
            None => report.missing.push(what),
        }
    } else {
        report.missing.push(what);
    }
    Ok(())
}

pub(crate) async fn find_stream(broker: &Broker, name: &str) -> Result<Option<stream::Stream>, SetupError> {
    broker.request(&format!("stream {name}"), name, || broker.jetstream.get_stream(name)).await
}

pub(crate) async fn create_stream(broker: &Broker, wanted: &stream::Config) -> Result<stream::Stream, SetupError> {
    let what = format!("stream {}", wanted.name);
    let create = || async {
        match broker.jetstream.create_stream(wanted.clone()).await {
            Err(error) => match permanent_error(error.api_error_kind(), wanted) {
                Some(error) => Ok(Err(error)),
                None => Err(error),
            },
            Ok(created) => Ok(Ok(created)),
        }
    };
    match broker.request(&what, &wanted.name, create).await? {
        Some(result) => result,
        None => {
            let reason = "the stream was deleted while it was created".to_owned();
            Err(SetupError::Refused { what, reason, is_temporary: true })
        }
    }
}

/// The error for a stream that cannot be created unless the server or the settings change.
fn permanent_error(kind: ApiErrorKind, wanted: &stream::Config) -> Option<SetupError> {
    let ApiErrorKind::JetStream(error) = kind else { return None };
    let name = wanted.name.clone();
    match error.error_code() {
        ErrorCode::STREAM_SUBJECT_OVERLAP => {
            Some(SetupError::SubjectTaken { name, subject: wanted.subjects.join(", ") })
        }
        ErrorCode::STORAGE_RESOURCES_EXCEEDED | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => {
            Some(SetupError::NoStorage { name, bytes: wanted.max_bytes, reason: error.to_string() })
        }
        _ => None,
    }
}

/// The jobs stream; `None` if it does not exist.
///
/// # Errors
/// [`SetupError`] if it cannot be read.
pub async fn find_jobs_stream(
    broker: impl Into<Broker>,
    settings: &StreamSettings,
) -> Result<Option<stream::Stream>, SetupError> {
    find_stream(&broker.into(), &settings.jobs).await
}

/// The consumer of the jobs stream; `None` if the stream or the consumer does not exist.
///
/// # Errors
/// [`SetupError`] if it cannot be read, or is not a pull consumer.
pub async fn find_consumer(
    broker: impl Into<Broker>,
    settings: &StreamSettings,
) -> Result<Option<PullConsumer>, SetupError> {
    find_consumer_of(&broker.into(), &settings.consumer, &settings.jobs).await
}

/// The consumer of urgent jobs; `None` if the stream or the consumer does not exist.
///
/// # Errors
/// [`SetupError`] if it cannot be read, or is not a pull consumer.
pub async fn find_urgent_consumer(
    broker: impl Into<Broker>,
    settings: &StreamSettings,
) -> Result<Option<PullConsumer>, SetupError> {
    find_consumer_of(&broker.into(), &settings.urgent_consumer(), &settings.jobs).await
}

/// The consumer of the retries stream; `None` if the stream or the consumer does not exist.
///
/// # Errors
/// [`SetupError`] if it cannot be read, or is not a pull consumer.
pub async fn find_retries_consumer(
    broker: impl Into<Broker>,
    settings: &StreamSettings,
) -> Result<Option<PullConsumer>, SetupError> {
    find_consumer_of(&broker.into(), &settings.consumer, &settings.retries).await
}

/// The consumer of the advisories stream; `None` if the stream or the consumer does not exist.
///
/// # Errors
/// [`SetupError`] if it cannot be read, or is not a pull consumer.
pub async fn find_advisory_consumer(
    broker: impl Into<Broker>,
    settings: &StreamSettings,
) -> Result<Option<PullConsumer>, SetupError> {
    find_consumer_of(&broker.into(), &settings.consumer, &settings.advisories).await
}

/// The settings of an existing stream that [`crate::migration`] would change.
fn migrated(settings: &StreamSettings, wanted: &stream::Config, found: &stream::Config) -> &'static [&'static str] {
    let lacks_subject = wanted.subjects.iter().any(|subject| !found.subjects.contains(subject));
    if found.name == settings.jobs && lacks_subject || found.name == settings.failed {
        &["subjects"]
    } else if found.name == settings.annotations {
        &["compression"]
    } else if found.name == settings.retries && found.retention == RetentionPolicy::WorkQueue {
        &["retention"]
    } else {
        &[]
    }
}

pub(crate) async fn find_consumer_of(
    broker: &Broker,
    consumer: &str,
    stream: &str,
) -> Result<Option<PullConsumer>, SetupError> {
    let what = format!("consumer {consumer}");
    let find = || broker.jetstream.get_consumer_from_stream(consumer, stream);
    broker.request(&what, stream, find).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_does_not_differ_from_itself() {
        for wanted in wanted_streams(&StreamSettings::default(), 1 << 20) {
            assert!(stream_differences(&wanted, &wanted, &[]).is_empty());
        }
    }

    #[test]
    fn each_difference_is_one_sentence_that_names_both_values() {
        let [jobs, ..] = wanted_streams(&StreamSettings::default(), 1 << 20);
        let found = stream::Config { retention: RetentionPolicy::Limits, max_message_size: -1, ..jobs.clone() };
        assert_eq!(
            stream_differences(&jobs, &found, &[]),
            [
                "stream GROUNDLING_JOBS has the retention Limits, and the settings say WorkQueue",
                "stream GROUNDLING_JOBS has the maximum message size -1, and the settings say 1032192",
            ]
        );
    }

    #[test]
    fn a_difference_that_a_migration_removes_ends_with_the_command() {
        let settings = StreamSettings::default();
        for (wanted, found_to_have) in wanted_streams(&settings, 1 << 20).into_iter().filter_map(|wanted| {
            let found = match &wanted.name {
                name if *name == settings.jobs => stream::Config { subjects: vec!["x".into()], ..wanted.clone() },
                name if *name == settings.annotations => {
                    stream::Config { compression: Some(stream::Compression::None), ..wanted.clone() }
                }
                name if *name == settings.retries => {
                    stream::Config { retention: RetentionPolicy::WorkQueue, ..wanted.clone() }
                }
                _ => return None,
            };
            Some((wanted, found))
        }) {
            let found = stream_differences(&wanted, &found_to_have, migrated(&settings, &wanted, &found_to_have));
            assert!(found.len() == 1 && found[0].ends_with(": run `groundling setup --migrate`"), "{found:?}");
        }
        let [jobs, ..] = wanted_streams(&settings, 1 << 20);
        let found = stream::Config { subjects: [jobs.subjects.clone(), vec!["x".into()]].concat(), ..jobs.clone() };
        let more = stream_differences(&jobs, &found, migrated(&settings, &jobs, &found));
        assert!(more.len() == 1 && more[0].starts_with("stream GROUNDLING_JOBS has the subjects"), "{more:?}");
        assert!(!more[0].contains("--migrate"), "a migration only adds subjects: {more:?}");
    }
}
