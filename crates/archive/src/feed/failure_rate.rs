//! The share of failures among the finished jobs of a dataset.

use std::collections::BTreeMap;

use async_nats::jetstream::Context;
use broker::settings::StreamSettings;
use wire::subjects::{Dataset, failed_tokens};
use wire::v1::FailureReason;

use crate::pool::{PoolError, count, open_stream, subjects};

/// The minimum number of finished jobs: a rate of fewer says little.
const MIN_FINISHED: u64 = 100;

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

#[derive(Debug, Clone)]
struct Finished {
    annotated: u64,
    /// Failures by the token of their reason.
    failed: BTreeMap<String, u64>,
}

impl Finished {
    /// Those that were added since `start`. Failures can also be removed.
    fn since(&self, start: &Self) -> Self {
        let failed = self.failed.iter().map(|(reason, count)| {
            let before = start.failed.get(reason).copied().unwrap_or(0);
            (reason.clone(), count.saturating_sub(before))
        });
        Self { annotated: self.annotated.saturating_sub(start.annotated), failed: failed.collect() }
    }
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
    pub(crate) async fn exceeded(&mut self) -> Result<Option<String>, PoolError> {
        let now = self.finished().await?;
        let start = self.start.get_or_insert_with(|| now.clone());
        let new = now.since(start);
        let failed: u64 = new.failed.values().sum();
        let finished = failed + new.annotated;
        if finished < MIN_FINISHED || failed as f64 <= self.maximum * finished as f64 {
            return Ok(None);
        }
        let reason = match new.failed.iter().max_by_key(|(_, count)| **count) {
            Some((token, count)) => {
                let name = FailureReason::from_token(token).map_or(token.as_str(), |reason| reason.as_str_name());
                format!(", most often {name} ({:.0} %)", 100.0 * *count as f64 / failed as f64)
            }
            None => String::new(),
        };
        let rate = 100.0 * failed as f64 / finished as f64;
        let maximum = 100.0 * self.maximum;
        Ok(Some(format!(
            "{failed} of {finished} jobs failed ({rate:.1} %, more than --max-failure-rate {maximum}%){reason}"
        )))
    }

    async fn finished(&self) -> Result<Finished, PoolError> {
        let annotations = open_stream(&self.jetstream, &self.streams.annotations).await?;
        let failures = open_stream(&self.jetstream, &self.streams.failed).await?;
        let mut failed = BTreeMap::new();
        for filter in [self.dataset.failed_wildcard(), self.dataset.failed_subject_without_reason()] {
            for (subject, count) in subjects(&failures, &filter).await? {
                let reason = failed_tokens(&subject).and_then(|(_, reason)| reason).unwrap_or("unknown");
                *failed.entry(reason.to_owned()).or_insert(0) += count;
            }
        }
        Ok(Finished { annotated: count(&annotations, &self.dataset.annotations_subject()).await?, failed })
    }
}
