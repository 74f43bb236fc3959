//! Access to the NATS server: the connection, the streams and consumers, publishing and reading.
//!
//! - [`connection`]: authentication, TLS, reconnection, and leaving a server in lame duck mode;
//! - [`settings`]: settings of the connection and of the streams;
//! - [`setup`]: creating streams and consumers, and comparing existing ones with the settings;
//! - [`events_setup`]: the same for the stream of events of object stores;
//! - [`migration`]: changing the jobs stream of an earlier version into that of this one;
//! - [`stream_rules`]: settings of streams and consumers with which jobs could be lost;
//! - [`stream_sizes`]: bounds on the bytes of each stream;
//! - [`publish`]: publishing annotations and failures with retries;
//! - [`delete`]: deleting messages by their sequence;
//! - [`direct`]: reading and counting a few messages of a stream without a consumer;
//! - [`read`]: reading a range of a stream, each message once;
//! - [`stream_states`]: which streams refuse messages at present, and why;
//! - [`permissions`]: permissions that the server denied.
//!
//! The crate depends on the messages of [`wire`]. It knows neither the model nor how jobs are processed.
//!
//! Connect, create the streams, submit a job and read the annotations:
//!
//! ```no_run
//! use broker::read::{Range, read};
//! use broker::settings::{NatsSettings, StreamSettings};
//! use broker::{connection, setup};
//! use futures::TryStreamExt;
//! use wire::Message;
//!
//! # async fn example(job: wire::v1::ImageJob) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let (nats, streams) = (NatsSettings::default(), StreamSettings::default());
//! let connection = connection::open(&nats, "example").await?;
//! let report = setup::setup(connection.broker(&nats), &streams).await?;
//! assert!(report.is_ready(), "{:?}", report.differences);
//!
//! let jetstream = connection::jetstream(&connection.client, &nats);
//! let subject = job.dataset.parse::<wire::subjects::Dataset>()?.jobs_subject();
//! let message = async_nats::jetstream::message::PublishMessage::build()
//!     .payload(job.encode_to_vec().into())
//!     .message_id(&job.job_id);
//! jetstream.send_publish(subject, message).await?.await?;
//!
//! let mut annotations = std::pin::pin!(read(&jetstream, &streams.annotations, Range::all()).await?);
//! while let Some(message) = annotations.try_next().await? {
//!     let annotation = wire::v1::ImageAnnotation::decode(message.payload)?;
//!     println!("{}: {}", message.sequence, annotation.job_id);
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod api;
pub mod backoff;
pub mod causes;
mod configs;
pub mod connection;
pub mod delete;
mod differences;
pub mod direct;
mod duration_text;
pub mod events_setup;
pub mod leader;
pub mod migration;
mod outages;
pub mod permission_probe;
pub mod permissions;
pub mod publish;
pub mod read;
mod secret;
pub mod server_time;
pub mod settings;
pub mod settings_check;
pub mod setup;
pub mod stream_rules;
pub mod stream_sizes;
pub mod stream_states;
