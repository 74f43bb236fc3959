//! Faults of the NATS server.

use std::time::Duration;

use async_nats::jetstream;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::workers::disturb;
use crate::pool::WorkerProcesses;
use crate::retry::retry;
use crate::servers::Servers;

/// How long something stays full: usually for a few attempts to publish, sometimes for more of them than
/// `worker.max_deliveries`.
pub(super) fn full_for(random: &mut ChaCha8Rng) -> Duration {
    let seconds = if random.random_bool(0.15) { 60.0..80.0 } else { 3.0..12.0 };
    Duration::from_secs_f64(random.random_range(seconds))
}

/// Limits the account's storage to the bytes in use for a while.
pub(super) async fn exhaust_storage(
    servers: &Servers,
    jetstream: &jetstream::Context,
    pool: &mut WorkerProcesses,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<String> {
    let used = retry("the request for the account's storage", async || jetstream.query_account().await).await?.storage;
    let duration = full_for(random);
    let disturbed = async {
        servers.limit_storage(Some(used.max(1))).await?;
        disturb(pool, duration, random).await
    };
    let disturbed = disturbed.await;
    // Also after an error.
    servers.limit_storage(None).await?;
    disturbed?;
    Ok(format!("{used} bytes for {duration:.1?}"))
}
