//! The events stream and its consumer, which exist only if `groundling ingest` reads events from NATS.

use async_nats::jetstream::consumer::PullConsumer;

use crate::api::{Broker, SetupError};
use crate::configs::{wanted_events_consumer, wanted_events_stream, wanted_streams};
use crate::differences::stream_differences;
use crate::settings::StreamSettings;
use crate::setup::{
    SetupReport, create_or_compare_consumer, create_stream, find_consumer_of, find_stream, storage_use,
};
use crate::stream_rules::events_stream_errors;
use crate::stream_sizes::Storage;

/// Creates the events stream with these subjects, and its consumer, if they are missing, and compares existing ones with
/// the settings. Call it after [`crate::setup::setup`]. Without subjects it does nothing.
///
/// # Errors
/// [`SetupError`].
pub async fn setup_events(
    broker: impl Into<Broker>,
    settings: &StreamSettings,
    subjects: &[String],
) -> Result<SetupReport, SetupError> {
    create_or_compare(&broker.into(), settings, subjects, true).await
}

/// Like [`setup_events`], but creates nothing.
///
/// # Errors
/// [`SetupError`] if the stream or the consumer cannot be read.
pub async fn check_events(
    broker: impl Into<Broker>,
    settings: &StreamSettings,
    subjects: &[String],
) -> Result<SetupReport, SetupError> {
    create_or_compare(&broker.into(), settings, subjects, false).await
}

/// The consumer of the events stream; `None` if the stream or the consumer does not exist.
///
/// # Errors
/// [`SetupError`] if it cannot be read, or is not a pull consumer.
pub async fn find_events_consumer(
    broker: impl Into<Broker>,
    settings: &StreamSettings,
) -> Result<Option<PullConsumer>, SetupError> {
    find_consumer_of(&broker.into(), &settings.events_consumer, &settings.events).await
}

/// The subjects of the events stream; none if it does not exist.
///
/// # Errors
/// [`SetupError`] if it cannot be read.
pub async fn events_stream_subjects(
    broker: impl Into<Broker>,
    settings: &StreamSettings,
) -> Result<Vec<String>, SetupError> {
    let found = find_stream(&broker.into(), &settings.events).await?;
    Ok(found.map(|stream| stream.cached_info().config.subjects.clone()).unwrap_or_default())
}

async fn create_or_compare(
    broker: &Broker,
    settings: &StreamSettings,
    subjects: &[String],
    create: bool,
) -> Result<SetupReport, SetupError> {
    let mut report = SetupReport::default();
    if subjects.is_empty() {
        return Ok(report);
    }
    let mut wanted = wanted_events_stream(settings, subjects.to_vec());
    let (what, consumer) = (format!("stream {}", wanted.name), format!("consumer {}", settings.events_consumer));
    let stream = match find_stream(broker, &wanted.name).await? {
        Some(found) => {
            let config = &found.cached_info().config;
            report.differences.extend(stream_differences(&wanted, config, &["subjects"]));
            report.errors.extend(events_stream_errors(config));
            report.found.push(what);
            found
        }
        None if create => {
            let mut own = Vec::new();
            for other in wanted_streams(settings, broker.jetstream.client().max_payload()) {
                own.extend(find_stream(broker, &other.name).await?);
            }
            Storage::new(broker, settings, storage_use(own.iter())).bound(&mut wanted).await?;
            let created = create_stream(broker, &wanted).await?;
            report.created.push(what);
            created
        }
        None => {
            report.missing.extend([what, consumer]);
            return Ok(report);
        }
    };
    let wanted = wanted_events_consumer(settings);
    create_or_compare_consumer(broker, &stream, wanted, create, consumer, settings, &mut report).await?;
    Ok(report)
}
