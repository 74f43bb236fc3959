//! Submitting the jobs of a run.

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

/// Publishes every job until it is acknowledged, as soon as `allowed` is larger than its index.
///
/// # Errors
/// If the connection cannot be made.
pub async fn submit(url: String, jobs: Vec<PlannedJob>, allowed: watch::Receiver<usize>) -> anyhow::Result<()> {
    let servers: Vec<async_nats::ServerAddr> = url.split(',').filter_map(|server| server.parse().ok()).collect();
    let client = async_nats::ConnectOptions::new()
        .ping_interval(Duration::from_secs(2))
        .connection_timeout(Duration::from_secs(3))
        .retry_on_initial_connect()
        .connect(servers)
        .await?;
    let jetstream = jetstream::ContextBuilder::new().timeout(Duration::from_secs(5)).build(client);
    stream::iter(jobs.iter().enumerate())
        .map(Ok)
        .try_for_each_concurrent(CONCURRENT, |(i, job)| {
            let (jetstream, mut allowed) = (&jetstream, allowed.clone());
            async move {
                // Fails only if the run has ended early.
                let _ = allowed.wait_for(|allowed| i < *allowed).await;
                publish_until_accepted(jetstream, job, i.is_multiple_of(JOBS_PER_URGENT)).await
            }
        })
        .await
}

/// Publishes a job until it is acknowledged.
///
/// # Errors
/// If its dataset is not a valid name.
pub async fn publish_until_accepted(
    jetstream: &jetstream::Context,
    job: &PlannedJob,
    urgent: bool,
) -> anyhow::Result<()> {
    let dataset: Dataset = job.dataset.parse()?;
    let subject = if urgent { dataset.urgent_subject() } else { dataset.jobs_subject() };
    while let Err(error) = publish(jetstream, &subject, job).await {
        tracing::debug!(job = job.id, %error, "submission failed; retrying");
        tokio::time::sleep(RETRY_DELAY).await;
    }
    Ok(())
}

async fn publish(jetstream: &jetstream::Context, subject: &str, job: &PlannedJob) -> Result<(), async_nats::Error> {
    let message = PublishMessage::build().payload(job.payload.clone().into()).message_id(&job.id);
    jetstream.send_publish(subject.to_owned(), message).await?.await?;
    Ok(())
}
