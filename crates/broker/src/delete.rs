//! Deleting messages of a stream by their sequence.

use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::jetstream::{Context, ErrorCode};
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
struct Request {
    seq: u64,
    /// Otherwise the server overwrites the message, for which it writes the whole block of up to 8 MB again and syncs
    /// it, while the stream waits.
    no_erase: bool,
}

#[derive(Deserialize)]
struct Response {
    error: Option<async_nats::jetstream::Error>,
}

/// Deletes the message with this sequence. Returns whether it was there.
///
/// # Errors
/// If the server does not confirm it.
pub async fn delete_message(jetstream: &Context, stream: &str, sequence: u64) -> Result<bool, async_nats::Error> {
    let request = Request { seq: sequence, no_erase: true };
    let response: Response = jetstream.request(format!("STREAM.MSG.DELETE.{stream}"), &request).await?;
    let Some(error) = response.error else { return Ok(true) };
    if error.error_code() == ErrorCode::SEQUENCE_NOT_FOUND {
        return Ok(false);
    }
    // A missing message is reported in several ways.
    match jetstream.get_stream_no_info(stream).await?.get_raw_message(sequence).await {
        Err(missing) if missing.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
        _ => Err(error.into()),
    }
}
