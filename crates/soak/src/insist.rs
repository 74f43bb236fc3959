//! Requests that must succeed in the end: servers may have no leader for a while.

use std::time::{Duration, Instant};

use anyhow::Context;

/// How long to try. A cluster that was cut apart needs some 10 s.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);

/// Tries until `action` succeeds.
///
/// # Errors
/// Its last error, after a minute.
pub async fn insist<T, E: Into<anyhow::Error>>(
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
        tokio::time::sleep(PAUSE).await;
    }
}
