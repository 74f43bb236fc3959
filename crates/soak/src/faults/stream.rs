//! What an operator does to streams and consumers.

use std::time::Duration;

use async_nats::jetstream::stream::{self, ConsumerError, ConsumerErrorKind, DiscardPolicy, Stream};
use async_nats::jetstream::{self, ErrorCode, consumer};
use futures::TryStreamExt;
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::server::full_for;
use super::workers::disturb;
use crate::insist::insist;
use crate::pool::Pool;
use crate::s3_proxy::S3Proxy;
use crate::streams;

/// Limits a stream to what it holds, for a while.
pub(super) async fn fill(
    jetstream: &jetstream::Context,
    pool: &mut Pool,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<String> {
    let name = streams::WRITTEN.choose(random).unwrap_or(&streams::WRITTEN[0]);
    let found = insist("the look at a stream", async || jetstream.get_stream(name).await).await?;
    let (config, state) = (found.cached_info().config.clone(), found.cached_info().state.clone());
    let mut full = stream::Config { discard: DiscardPolicy::New, ..config.clone() };
    // Zero would be no limit.
    let limit = if random.random_bool(0.5) {
        full.max_messages = i64::try_from(state.messages)?.max(1);
        format!("max_messages {}", full.max_messages)
    } else {
        full.max_bytes = i64::try_from(state.bytes)?.max(1);
        format!("max_bytes {}", full.max_bytes)
    };
    let lasts = full_for(random);
    let disturbed = async {
        update(jetstream, &full).await?;
        disturb(pool, lasts, random).await
    };
    let disturbed = disturbed.await;
    // Whatever went wrong.
    update(jetstream, &config).await?;
    disturbed?;
    Ok(format!("{name}: {limit} for {lasts:.1?}"))
}

async fn update(jetstream: &jetstream::Context, config: &stream::Config) -> anyhow::Result<()> {
    insist("the change of a stream", async || jetstream.update_stream(config).await).await.map(drop)
}

/// Deletes a queue's consumers and creates them again with the same settings, while jobs are in hand.
pub(super) async fn recreate_consumer(
    jetstream: &jetstream::Context,
    s3: &S3Proxy,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<String> {
    let _slow = s3.slow();
    let (queue, consumers) = consumers_of_a_queue(jetstream, random).await?;
    let times = random.random_range(1..=3);
    for _ in 0..times {
        tokio::time::sleep(Duration::from_millis(random.random_range(500..3000))).await;
        let missing_for = if random.random_bool(0.5) { 0 } else { random.random_range(0..4000) };
        for (name, config) in &consumers {
            let deleted = insist("the deletion of a consumer", async || delete(&queue, name).await).await;
            tokio::time::sleep(Duration::from_millis(missing_for)).await;
            // Also after an error: it may be gone all the same.
            set(&queue, config).await?;
            deleted?;
        }
    }
    Ok(format!("{} {times} times", named(&queue)))
}

/// An earlier request may have deleted it, whose answer was lost.
async fn delete(queue: &Stream, name: &str) -> Result<(), ConsumerError> {
    match queue.delete_consumer(name).await {
        Err(error) if is_not_found(&error) => Ok(()),
        deleted => deleted.map(drop),
    }
}

fn is_not_found(error: &ConsumerError) -> bool {
    matches!(error.kind(), ConsumerErrorKind::JetStream(said) if said.error_code() == ErrorCode::CONSUMER_NOT_FOUND)
}

/// Raises `ack_wait` of a queue's consumers, and lowers it again, while jobs are in hand. It is not lowered below what it
/// was, for that is the least that workers take.
pub(super) async fn change_consumer(
    jetstream: &jetstream::Context,
    s3: &S3Proxy,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<String> {
    let _slow = s3.slow();
    let (queue, consumers) = consumers_of_a_queue(jetstream, random).await?;
    let raised = Duration::from_secs(random.random_range(6..=30));
    for _ in 0..random.random_range(1..=2) {
        for (_, config) in &consumers {
            let longer = consumer::Config { ack_wait: raised, ..config.clone() };
            let changed = set(&queue, &longer).await;
            if changed.is_ok() {
                // Workers look every 3 s, and give signs of life less often from then on.
                tokio::time::sleep(Duration::from_millis(random.random_range(1000..9000))).await;
            }
            set(&queue, config).await?;
            changed?;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(500..4000))).await;
    }
    Ok(format!("{} to {raised:?}", named(&queue)))
}

fn named(queue: &Stream) -> &str {
    &queue.cached_info().config.name
}

/// A queue and its durable consumers, with their settings. As a rule it is the queue of jobs.
async fn consumers_of_a_queue(
    jetstream: &jetstream::Context,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<(Stream, Vec<(String, consumer::Config)>)> {
    let name = if random.random_bool(0.8) { None } else { streams::QUEUES.choose(random) };
    let name = name.unwrap_or(&streams::QUEUES[0]);
    let queue = insist("the look at a queue", async || jetstream.get_stream(name).await).await?;
    let find = async || -> anyhow::Result<Vec<(String, consumer::Config)>> {
        let names: Vec<String> = queue.consumer_names().try_collect().await?;
        let mut found = Vec::new();
        for name in names {
            let config = queue.consumer_info(&name).await?.config;
            if config.durable_name.is_some() {
                found.push((name, config));
            }
        }
        Ok(found)
    };
    let consumers = insist("the look at the consumers of a queue", find).await?;
    Ok((queue, consumers))
}

/// Creates a consumer, or changes it.
async fn set(queue: &Stream, config: &consumer::Config) -> anyhow::Result<()> {
    insist("the change of a consumer", async || queue.create_consumer(config.clone()).await).await.map(drop)
}
