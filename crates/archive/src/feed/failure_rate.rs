//! The share of failures among the finished jobs of a dataset.

use std::collections::HashMap;

use async_nats::jetstream::Context;
use broker::read::{Range, read};
use broker::settings::StreamSettings;
use futures::TryStreamExt;
use wire::Message;
use wire::subjects::Dataset;
use wire::v1::{FailureReason, JobFailure};

use super::watermark::count;

/// The minimum number of finished jobs: a rate of fewer says little.
const MIN_FINISHED: u64 = 100;
/// The number of messages of the failed stream that are searched for the most frequent reason.
const SEARCHED: u64 = 5000;

/// Compares the failure rate of a dataset with a maximum.
#[derive(Debug)]
pub(crate) struct FailureRate {
    jetstream: Context,
    streams: StreamSettings,
    dataset: Dataset,
    maximum: f64,
    /// The counts at the start: finished jobs of earlier feeders do not count.
    start: Option<Finished>,
}

#[derive(Debug, Clone, Copy)]
struct Finished {
    annotated: u64,
    failed: u64,
    /// The last sequence of the failed stream.
    last_failure: u64,
}

impl FailureRate {
    /// `maximum` is a share of the finished jobs, 0 to 1.
    pub(crate) fn new(jetstream: Context, streams: StreamSettings, dataset: Dataset, maximum: f64) -> Self {
        Self { jetstream, streams, dataset, maximum, start: None }
    }

    /// Starts again: jobs that have finished until now do not count.
    pub(crate) fn reset(&mut self) {
        self.start = None;
    }

    /// Whether the rate is above the maximum: then a sentence with the rate and the most frequent reason.
    ///
    /// # Errors
    /// If a stream cannot be read.
    pub(crate) async fn exceeded(&mut self) -> Result<Option<String>, async_nats::Error> {
        let now = self.finished().await?;
        let start = *self.start.get_or_insert(now);
        let failed = now.failed.saturating_sub(start.failed);
        let finished = failed + now.annotated.saturating_sub(start.annotated);
        if finished < MIN_FINISHED || failed as f64 <= self.maximum * finished as f64 {
            return Ok(None);
        }
        let reason = match self.most_frequent_reason(start.last_failure, now.last_failure).await? {
            Some((reason, share)) => format!(", most often {} ({:.0} %)", reason.as_str_name(), 100.0 * share),
            None => String::new(),
        };
        let rate = 100.0 * failed as f64 / finished as f64;
        let maximum = 100.0 * self.maximum;
        Ok(Some(format!(
            "{failed} of {finished} jobs failed ({rate:.1} %, more than --max-failure-rate {maximum}%){reason}"
        )))
    }

    async fn finished(&self) -> Result<Finished, async_nats::Error> {
        let annotations = self.jetstream.get_stream(&self.streams.annotations).await?;
        let failures = self.jetstream.get_stream(&self.streams.failed).await?;
        Ok(Finished {
            annotated: count(&annotations, &self.dataset.annotations_subject()).await?,
            failed: count(&failures, &self.dataset.failed_subject()).await?,
            last_failure: failures.cached_info().state.last_sequence,
        })
    }

    /// The most frequent reason of the last failures after the sequence `start`, and its share of them.
    async fn most_frequent_reason(
        &self,
        start: u64,
        last: u64,
    ) -> Result<Option<(FailureReason, f64)>, async_nats::Error> {
        let sequences = (start + 1).max(last.saturating_sub(SEARCHED))..=last;
        let range = Range { subject: self.dataset.failed_subject(), sequences, deduplicate: true };
        let mut messages = std::pin::pin!(read(&self.jetstream, &self.streams.failed, range).await?);
        let (mut counts, mut all) = (HashMap::new(), 0);
        while let Some(message) = messages.try_next().await? {
            if let Ok(failure) = JobFailure::decode(message.payload) {
                *counts.entry(failure.reason()).or_insert(0) += 1;
                all += 1;
            }
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        Ok(most.map(|(reason, count)| (reason, f64::from(count) / f64::from(all))))
    }
}
