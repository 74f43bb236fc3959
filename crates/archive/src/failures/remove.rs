//! Removing failures from their stream.

use async_nats::jetstream::stream::{Info, LastRawMessageErrorKind, Stream};
use broker::delete::delete_message;
use futures::{StreamExt, TryStreamExt, stream};

use super::read::Failure;
use crate::pool::{Pool, PoolError};

/// Requests that run at once.
const CONCURRENCY: usize = 16;

/// Removes these failures. Returns how many were still there.
///
/// # Errors
/// [`PoolError`] if the server does not answer; some of them may have been removed.
pub async fn drop_failures(pool: &Pool, failures: &[Failure]) -> Result<u64, PoolError> {
    pool.stream(&pool.streams.failed).await?;
    let removals: Vec<_> = failures.iter().map(|failure| remove(pool, failure.sequence)).collect();
    let removed: Vec<bool> = stream::iter(removals).buffer_unordered(CONCURRENCY).try_collect().await?;
    Ok(removed.into_iter().map(u64::from).sum())
}

/// Removes the failure with this sequence; `false` if it is not there any more.
pub(super) async fn remove(pool: &Pool, sequence: u64) -> Result<bool, PoolError> {
    let removed = delete_message(&pool.jetstream, &pool.streams.failed, sequence).await;
    let failed = |error: async_nats::Error| {
        PoolError::broker(format!("removing the failure with the sequence {sequence}"), error.as_ref())
    };
    removed.map_err(failed)
}

/// Whether the stream holds a message with this sequence.
pub(super) async fn exists(stream: &Stream<Info>, sequence: u64) -> Result<bool, PoolError> {
    match stream.get_raw_message(sequence).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
        Err(error) => Err(PoolError::broker(format!("reading the failure with the sequence {sequence}"), &error)),
    }
}
