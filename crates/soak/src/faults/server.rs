//! What an operator does to servers.

use std::time::Duration;

use async_nats::jetstream;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::workers::disturb;
use crate::broker::Broker;
use crate::insist::insist;
use crate::pool::Pool;

/// How long something stays full. As a rule for some attempts of the workers to publish; now and then for more of them
/// than `worker.max_deliveries` of the runs.
pub(super) fn full_for(random: &mut ChaCha8Rng) -> Duration {
    let seconds = if random.random_bool(0.15) { 60.0..80.0 } else { 3.0..12.0 };
    Duration::from_secs_f64(random.random_range(seconds))
}

/// Limits the account's storage to what is used, for a while.
pub(super) async fn exhaust_storage(
    broker: &Broker,
    jetstream: &jetstream::Context,
    pool: &mut Pool,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<String> {
    let used = insist("the look at the account", async || jetstream.query_account().await).await?.storage;
    let lasts = full_for(random);
    let disturbed = async {
        broker.limit_storage(Some(used.max(1))).await?;
        disturb(pool, lasts, random).await
    };
    let disturbed = disturbed.await;
    // Whatever went wrong.
    broker.limit_storage(None).await?;
    disturbed?;
    Ok(format!("{used} bytes for {lasts:.1?}"))
}
