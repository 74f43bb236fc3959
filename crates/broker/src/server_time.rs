//! The NATS server's clock.
//!
//! The age of a message is computed from the server's time. The clock of this machine may be wrong.

use std::time::Duration;

use async_nats::datetime::{DateTime, parse_rfc3339};
use async_nats::jetstream::Context;
use serde::Deserialize;

/// The fields of a `STREAM.INFO` response that are needed here.
#[derive(Debug, Deserialize)]
struct Answer {
    /// The server's time.
    ts: Option<String>,
    error: Option<async_nats::jetstream::Error>,
}

/// The current time on the server that leads a stream. It is the one that timestamps the stream's messages.
///
/// # Errors
/// If the stream does not exist, or the server does not answer or is older than 2.10.
pub async fn now(jetstream: &Context, stream: &str) -> Result<DateTime, async_nats::Error> {
    let answer: Answer = jetstream.request(format!("STREAM.INFO.{stream}"), &()).await?;
    match answer {
        Answer { error: Some(error), .. } => Err(error.into()),
        Answer { ts: Some(time), .. } => parse_rfc3339(&time),
        Answer { ts: None, .. } => {
            Err("the NATS server does not report its time, which needs version 2.10 or later".into())
        }
    }
}

/// The time since `published`, which the server that leads the stream has written.
///
/// # Errors
/// As for [`now`].
pub async fn age(jetstream: &Context, stream: &str, published: DateTime) -> Result<Duration, async_nats::Error> {
    Ok(Duration::try_from(now(jetstream, stream).await? - published).unwrap_or_default())
}
