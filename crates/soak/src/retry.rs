//! Retries of requests that fail while a cluster has no leader.

use std::time::{Duration, Instant};

use anyhow::Context;

/// How long to retry. A cluster that was partitioned needs about 10 s.
const LIMIT: Duration = Duration::from_secs(60);
const DELAY: Duration = Duration::from_millis(300);

/// Calls `action` until it succeeds.
///
/// # Errors
/// Its last error, after a minute. `what` names the action in it.
pub async fn retry<T, E: Into<anyhow::Error>>(
    what: &str,
    mut action: impl AsyncFnMut() -> Result<T, E>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        match action().await {
            Err(error) if started.elapsed() > LIMIT => {
                return Err(error.into()).with_context(|| format!("{what} failed for {LIMIT:?}"));
            }
            Err(error) => tracing::debug!("{what}: {:#}", error.into()),
            Ok(done) => return Ok(done),
        }
        tokio::time::sleep(DELAY).await;
    }
}
