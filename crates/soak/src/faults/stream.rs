//! Changes of streams and consumers by an operator.

use std::time::Duration;

use async_nats::jetstream::stream::{self, ConsumerError, ConsumerErrorKind, DiscardPolicy, Stream};
use async_nats::jetstream::{self, ErrorCode, consumer};
use futures::TryStreamExt;
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::server::full_for;
use super::workers::disturb;
use crate::pool::WorkerProcesses;
use crate::retry::retry;
use crate::s3_proxy::S3Proxy;
use crate::streams;

/// Limits a stream to its current size for a while.
pub(super) async fn fill(
    jetstream: &jetstream::Context,
    pool: &mut WorkerProcesses,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<String> {
    let name = streams::WRITTEN.choose(random).unwrap_or(&streams::WRITTEN[0]);
    let found = retry("the request for a stream", async || jetstream.get_stream(name).await).await?;
    let (config, state) = (found.cached_info().config.clone(), found.cached_info().state.clone());
    let mut full = stream::Config { discard: DiscardPolicy::New, ..config.clone() };
    // Zero means no limit.
    let limit = if random.random_bool(0.5) {
        full.max_messages = i64::try_from(state.messages)?.max(1);
        format!("max_messages {}", full.max_messages)
    } else {
        full.max_bytes = i64::try_from(state.bytes)?.max(1);
        format!("max_bytes {}", full.max_bytes)
    };
    let duration = full_for(random);
    let disturbed = async {
        update(jetstream, &full).await?;
        disturb(pool, duration, random).await
    };
    let disturbed = disturbed.await;
    // Also after an error.
    update(jetstream, &config).await?;
    disturbed?;
    Ok(format!("{name}: {limit} for {duration:.1?}"))
}

async fn update(jetstream: &jetstream::Context, config: &stream::Config) -> anyhow::Result<()> {
    retry("the update of a stream", async || jetstream.update_stream(config).await).await.map(drop)
}

/// Deletes a queue's consumers and creates them again with the same settings, while jobs are active.
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
            let deleted = retry("the deletion of a consumer", async || delete(&queue, name).await).await;
            tokio::time::sleep(Duration::from_millis(missing_for)).await;
            // Also after an error: it may have been deleted.
            set(&queue, config).await?;
            deleted?;
        }
    }
    Ok(format!("{} {times} times", named(&queue)))
}

/// Deletes a consumer. It may be gone already, if the response to an earlier request was lost.
async fn delete(queue: &Stream, name: &str) -> Result<(), ConsumerError> {
    match queue.delete_consumer(name).await {
        Err(error) if is_not_found(&error) => Ok(()),
        deleted => deleted.map(drop),
    }
}

fn is_not_found(error: &ConsumerError) -> bool {
    matches!(error.kind(), ConsumerErrorKind::JetStream(said) if said.error_code() == ErrorCode::CONSUMER_NOT_FOUND)
}

/// Raises the `ack_wait` of a queue's consumers and lowers it again while jobs are active. It is not set below its first
/// value, which is the minimum that workers accept.
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
                // Workers read the consumer every 3 s, and then send progress acks less often.
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

/// A queue and its durable consumers, with their settings: usually the jobs stream.
async fn consumers_of_a_queue(
    jetstream: &jetstream::Context,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<(Stream, Vec<(String, consumer::Config)>)> {
    let name = if random.random_bool(0.8) { None } else { streams::QUEUES.choose(random) };
    let name = name.unwrap_or(&streams::QUEUES[0]);
    let queue = retry("the request for a queue", async || jetstream.get_stream(name).await).await?;
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
    let consumers = retry("the request for the consumers of a queue", find).await?;
    Ok((queue, consumers))
}

/// Creates or updates a consumer.
async fn set(queue: &Stream, config: &consumer::Config) -> anyhow::Result<()> {
    retry("the update of a consumer", async || queue.create_consumer(config.clone()).await).await.map(drop)
}
