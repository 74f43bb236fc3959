//! The streams, as read by the commands that watch and repair a pool.

use async_nats::Client;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Info, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use broker::api::Broker;
use broker::causes::causes;
use broker::connection::{self, Connection};
use broker::direct::{DirectError, DirectReader};
use broker::read::ReadError;
use broker::settings::{NatsSettings, StreamSettings};
use futures::TryStreamExt;
use time::OffsetDateTime;
use wire::prost_types::Timestamp;
use wire::subjects::Dataset;

/// Access to the streams.
#[derive(Debug, Clone)]
pub struct Pool {
    pub(crate) client: Client,
    pub(crate) jetstream: Context,
    pub(crate) broker: Broker,
    pub(crate) streams: StreamSettings,
    pub(crate) annotations: DirectReader,
    pub(crate) failed: DirectReader,
    pub(crate) timeout: std::time::Duration,
}

/// The streams cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A stream does not exist.
    #[error("the stream {0} does not exist: run `groundling setup`")]
    NoStream(String),
    /// A consumer does not exist.
    #[error("the consumer {consumer} of the stream {stream} does not exist: run `groundling setup`")]
    NoConsumer {
        /// The consumer.
        consumer: String,
        /// Its stream.
        stream: String,
    },
    /// The server does not do what was asked.
    #[error("{what} failed: {cause}")]
    Broker {
        /// What was asked.
        what: String,
        /// What the server or the connection said.
        cause: String,
    },
    /// Messages cannot be read.
    #[error(transparent)]
    Direct(#[from] DirectError),
    /// Messages cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl PoolError {
    pub(crate) fn broker(what: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Broker { what: what.into(), cause: causes(error) }
    }
}

impl Pool {
    /// The streams of these settings, over this connection.
    pub fn new(client: &Client, nats: &NatsSettings, streams: StreamSettings) -> Self {
        let jetstream = connection::jetstream(client, nats);
        Self {
            client: client.clone(),
            broker: Broker::from(&jetstream),
            jetstream,
            annotations: DirectReader::new(client, nats, &streams.annotations),
            failed: DirectReader::new(client, nats, &streams.failed),
            timeout: nats.request_timeout,
            streams,
        }
    }

    /// Like [`Pool::new`], and a denied request for a consumer fails at once, with the missing permission.
    pub fn of_connection(connection: &Connection, nats: &NatsSettings, streams: StreamSettings) -> Self {
        Self { broker: connection.broker(nats), ..Self::new(&connection.client, nats, streams) }
    }

    /// The number of annotations of a dataset that are in their stream.
    ///
    /// # Errors
    /// [`PoolError`] if the stream does not exist, or the server does not answer.
    pub async fn count_annotations(&self, dataset: &Dataset) -> Result<u64, PoolError> {
        let stream = self.stream(&self.streams.annotations).await?;
        count(&stream, &dataset.annotations_subject()).await
    }

    /// The name of the stream of annotations.
    pub fn annotations_stream(&self) -> &str {
        &self.streams.annotations
    }

    /// The state of a stream.
    pub(crate) async fn stream(&self, name: &str) -> Result<Stream<Info>, PoolError> {
        open_stream(&self.jetstream, name).await
    }

    /// Whether a dataset has a plan, jobs, annotations or failures.
    ///
    /// # Errors
    /// [`PoolError`] if a stream does not exist, or the server does not answer.
    pub async fn knows(&self, dataset: &Dataset) -> Result<bool, PoolError> {
        is_known(&self.jetstream, &self.streams, dataset).await
    }
}

/// Opens a stream.
///
/// # Errors
/// [`PoolError::NoStream`] if it does not exist; others if the server does not answer.
pub(crate) async fn open_stream(jetstream: &Context, name: &str) -> Result<Stream<Info>, PoolError> {
    jetstream.get_stream(name).await.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            PoolError::NoStream(name.to_owned())
        }
        _ => PoolError::broker(format!("opening the stream {name}"), &error),
    })
}

/// Whether a dataset has a plan, jobs, annotations or failures.
pub(crate) async fn is_known(
    jetstream: &Context,
    streams: &StreamSettings,
    dataset: &Dataset,
) -> Result<bool, PoolError> {
    // Retries come last: each has a subject of its own.
    for (name, filter) in [
        (&streams.jobs, dataset.cursor_subject("plan")),
        (&streams.jobs, dataset.jobs_subject()),
        (&streams.jobs, dataset.urgent_subject()),
        (&streams.annotations, dataset.annotations_subject()),
        (&streams.failed, dataset.failed_wildcard()),
        (&streams.failed, dataset.failed_subject_without_reason()),
        (&streams.retries, dataset.retries_subject()),
    ] {
        if !subjects(&open_stream(jetstream, name).await?, &filter).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Formats a time to the nanosecond. A stream's creation time distinguishes a re-created stream from the deleted one.
pub(crate) fn time_text(time: OffsetDateTime) -> String {
    let nanos = i32::try_from(time.nanosecond()).unwrap_or(0);
    Timestamp { seconds: time.unix_timestamp(), nanos }.to_string()
}

/// Whether annotations have been removed from their stream, by its limits, by an export or by hand. What they were about
/// looks as if it had never been annotated.
///
/// # Errors
/// [`PoolError`] if the stream does not exist, or the server does not answer.
pub async fn annotations_removed(jetstream: &Context, name: &str) -> Result<bool, PoolError> {
    let stream = open_stream(jetstream, name).await?;
    let state = &stream.cached_info().state;
    Ok(state.first_sequence > 1 || state.deleted_count.is_some_and(|deleted| deleted > 0))
}

/// The subjects of a stream that match a filter, with the number of messages on each of them.
pub(crate) async fn subjects(stream: &Stream<Info>, filter: &str) -> Result<Vec<(String, u64)>, PoolError> {
    let name = &stream.cached_info().config.name;
    let failed = |error| PoolError::broker(format!("counting the messages of the stream {name}"), &error);
    let mut found = stream.info_with_subjects(filter).await.map_err(failed)?;
    let mut subjects = Vec::new();
    while let Some((subject, messages)) = found.try_next().await.map_err(failed)? {
        subjects.push((subject, messages as u64));
    }
    Ok(subjects)
}

/// The number of messages of a stream whose subjects match a filter.
pub(crate) async fn count(stream: &Stream<Info>, filter: &str) -> Result<u64, PoolError> {
    Ok(subjects(stream, filter).await?.iter().map(|(_, messages)| messages).sum())
}
