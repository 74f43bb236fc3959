//! The streams of a pool, as the commands read them that watch and repair it.

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
    #[error("the stream {0} is not there: run `groundling setup`")]
    NoStream(String),
    /// A consumer does not exist.
    #[error("the consumer {consumer} of the stream {stream} is not there: run `groundling setup`")]
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

    /// The state of a stream.
    pub(crate) async fn stream(&self, name: &str) -> Result<Stream<Info>, PoolError> {
        self.jetstream.get_stream(name).await.map_err(|error| match error.kind() {
            GetStreamErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                PoolError::NoStream(name.to_owned())
            }
            _ => PoolError::broker(format!("opening the stream {name}"), &error),
        })
    }
}

/// When a stream was created, as a text. It tells a stream that was deleted and created again from the earlier one.
pub(crate) fn created_text(created: OffsetDateTime) -> String {
    let nanos = i32::try_from(created.nanosecond()).unwrap_or(0);
    Timestamp { seconds: created.unix_timestamp(), nanos }.to_string()
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
