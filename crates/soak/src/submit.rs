//! Submitting the jobs of a run.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::{self, message::PublishMessage};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use wire::subjects::Dataset;

use crate::plan::PlannedJob;

/// Maximum number of concurrent submissions.
const CONCURRENT: usize = 16;
/// One of this many jobs is urgent.
const JOBS_PER_URGENT: usize = 8;
/// Delay after a submission that was not acknowledged.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Publishes every job until it is acknowledged, as soon as `allowed` is larger than its index. Returns the acknowledged
/// sequence of each job id.
///
/// # Errors
/// If the connection cannot be made.
pub async fn submit(
    url: String,
    jobs: Vec<PlannedJob>,
    allowed: watch::Receiver<usize>,
) -> anyhow::Result<HashMap<String, u64>> {
    let servers: Vec<async_nats::ServerAddr> = url.split(',').filter_map(|server| server.parse().ok()).collect();
    let client = async_nats::ConnectOptions::new()
        .ping_interval(Duration::from_secs(2))
        .connection_timeout(Duration::from_secs(3))
        .retry_on_initial_connect()
        .connect(servers)
        .await?;
    let jetstream = jetstream::ContextBuilder::new().timeout(Duration::from_secs(5)).build(client);
    let sequences = Mutex::new(HashMap::new());
    stream::iter(jobs.iter().enumerate())
        .map(Ok)
        .try_for_each_concurrent(CONCURRENT, |(i, job)| {
            let (jetstream, sequences, mut allowed) = (&jetstream, &sequences, allowed.clone());
            async move {
                // Fails only if the run has ended early.
                let _ = allowed.wait_for(|allowed| i < *allowed).await;
                let sequence = publish_until_accepted(jetstream, job, i.is_multiple_of(JOBS_PER_URGENT)).await?;
                sequences.lock().unwrap_or_else(PoisonError::into_inner).insert(job.id.clone(), sequence);
                anyhow::Ok(())
            }
        })
        .await?;
    Ok(sequences.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Publishes a job until it is acknowledged. Returns its sequence.
///
/// # Errors
/// If its dataset is not a valid name.
pub async fn publish_until_accepted(
    jetstream: &jetstream::Context,
    job: &PlannedJob,
    urgent: bool,
) -> anyhow::Result<u64> {
    let dataset: Dataset = job.dataset.parse()?;
    let subject = if urgent { dataset.urgent_subject() } else { dataset.jobs_subject() };
    loop {
        match publish(jetstream, &subject, job).await {
            Ok(sequence) => return Ok(sequence),
            Err(error) => tracing::debug!(job = job.id, %error, "submission failed; retrying"),
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn publish(jetstream: &jetstream::Context, subject: &str, job: &PlannedJob) -> Result<u64, async_nats::Error> {
    let message = PublishMessage::build().payload(job.payload.clone().into()).message_id(&job.id);
    let ack = jetstream.send_publish(subject.to_owned(), message).await?.await?;
    tracing::debug!(job = job.id, sequence = ack.sequence, duplicate = ack.duplicate, "submitted");
    Ok(ack.sequence)
}
