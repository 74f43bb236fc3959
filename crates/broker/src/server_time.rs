//! The NATS server's clock: how old is what it keeps.
//!
//! Times that the server wrote are held against the server's own time and never against this machine's, whose clock may
//! be wrong by any amount.

use std::time::Duration;

use async_nats::datetime::{DateTime, parse_rfc3339};
use async_nats::jetstream::Context;
use serde::Deserialize;

/// What a server says of a stream, as far as it is of use here.
#[derive(Debug, Deserialize)]
struct Answer {
    /// When it said so.
    ts: Option<String>,
    error: Option<async_nats::jetstream::Error>,
}

/// The time on the server that leads a stream, which is the one that writes times into it.
pub async fn now(jetstream: &Context, stream: &str) -> Result<DateTime, async_nats::Error> {
    let answer: Answer = jetstream.request(format!("STREAM.INFO.{stream}"), &()).await?;
    match answer {
        Answer { error: Some(error), .. } => Err(error.into()),
        Answer { ts: Some(said), .. } => parse_rfc3339(&said),
        Answer { ts: None, .. } => Err("the NATS server does not say what time it is: 2.10 and later do".into()),
    }
}

/// How long ago the stream's server wrote something down.
pub async fn age(jetstream: &Context, stream: &str, written: DateTime) -> Result<Duration, async_nats::Error> {
    Ok(Duration::try_from(now(jetstream, stream).await? - written).unwrap_or_default())
}
