//! Removing failures from their stream.

use async_nats::jetstream::stream::{Info, LastRawMessageErrorKind, Stream};
use futures::{StreamExt, TryStreamExt, stream};

use super::read::Failure;
use crate::pool::{Pool, PoolError};

/// Requests that run at once.
const AT_ONCE: usize = 16;

/// Removes these failures; gives how many were still there.
///
/// # Errors
/// [`PoolError`] if the server does not answer; some of them may have been removed.
pub async fn drop_failures(pool: &Pool, failures: &[Failure]) -> Result<u64, PoolError> {
    let stream = pool.stream(&pool.streams.failed).await?;
    let removals: Vec<_> = failures.iter().map(|failure| remove(&stream, failure.sequence)).collect();
    let removed: Vec<bool> = stream::iter(removals).buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(removed.into_iter().map(u64::from).sum())
}

/// Removes the message with this sequence; `false` if it is not there any more.
pub(super) async fn remove(stream: &Stream<Info>, sequence: u64) -> Result<bool, PoolError> {
    let Err(error) = stream.delete_message(sequence).await else { return Ok(true) };
    // A message that is not there is reported in several ways.
    if !exists(stream, sequence).await? {
        return Ok(false);
    }
    Err(PoolError::broker(format!("removing the failure with the sequence {sequence}"), &error))
}

/// Whether the stream holds a message with this sequence.
pub(super) async fn exists(stream: &Stream<Info>, sequence: u64) -> Result<bool, PoolError> {
    match stream.get_raw_message(sequence).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
        Err(error) => Err(PoolError::broker(format!("reading the failure with the sequence {sequence}"), &error)),
    }
}
