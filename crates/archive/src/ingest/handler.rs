//! Handles one event: decodes it, applies the rules, and publishes the jobs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use telemetry::Instruments;
use telemetry::ingest_attributes::{IngestOutcome, IngestReason};
use time::OffsetDateTime;
use wire::Message;

use super::formats;
use super::headers::{EventHeaders, job_headers};
use super::publisher::{JobMessage, JobPublisher, Stored};
use super::record::Record;
use super::rule::{Rule, Selected};

/// Maximum number of jobs of one event that are published at once.
const CONCURRENT: usize = 16;

/// Handles events.
#[derive(Clone)]
pub(super) struct Handler {
    pub(super) publisher: JobPublisher,
    pub(super) instruments: Instruments,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Handled {
    /// All of its jobs are stored.
    Done(Counts),
    /// It cannot be read by any rule.
    Unreadable(String),
    /// Not all of its jobs could be stored. It must be delivered again.
    SentBack(IngestReason),
}

/// How many records became what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    /// Stored jobs.
    pub(super) jobs: usize,
    /// Jobs that the stream had already.
    pub(super) duplicates: usize,
    /// Records that ask for no job.
    pub(super) skipped: usize,
    /// Records that are given up.
    pub(super) failed: usize,
}

/// What a rule makes of a record.
struct Part {
    rule: Arc<Rule>,
    time: Option<OffsetDateTime>,
    what: What,
}

enum What {
    Job(JobMessage),
    Skipped(IngestReason),
    Failed(IngestReason),
    Submitted(Stored),
}

impl Handler {
    /// Handles an event for these rules. Tries to store its jobs until the deadline.
    pub(super) async fn handle(
        &self,
        rules: &[Arc<Rule>],
        headers: &EventHeaders,
        body: &[u8],
        deadline: Instant,
    ) -> Handled {
        let (mut parts, mut trace, mut unreadable) = (Vec::new(), None, None);
        for rule in rules {
            match formats::decode(rule.format(), headers, body) {
                Ok(decoded) => {
                    trace = decoded.trace.or(trace);
                    parts.extend(decoded.records.iter().map(|record| part(rule, record)));
                }
                Err(error) => {
                    tracing::warn!(rule = rule.name(), bytes = body.len(), "an event cannot be read: {error}");
                    parts.push(Part {
                        rule: Arc::clone(rule),
                        time: None,
                        what: What::Failed(IngestReason::Unreadable),
                    });
                    unreadable.get_or_insert(error.to_string());
                }
            }
        }
        let parts = match self.publish(parts, &job_headers(trace.as_ref()), deadline).await {
            Ok(parts) => parts,
            Err((rule, reason)) => {
                self.instruments.record_ingested(Some(rule.name()), IngestOutcome::SentBack, Some(reason));
                return Handled::SentBack(reason);
            }
        };
        // Not before the event is at its end: each record is counted once.
        let counts = self.count(&parts);
        match unreadable {
            Some(error) if counts.failed == parts.len() => Handled::Unreadable(error),
            _ => Handled::Done(counts),
        }
    }

    /// Publishes the jobs among the parts. If one cannot be stored, returns its rule and why.
    async fn publish(
        &self,
        parts: Vec<Part>,
        headers: &HeaderMap,
        deadline: Instant,
    ) -> Result<Vec<Part>, (Arc<Rule>, IngestReason)> {
        let publish = async |mut part: Part| {
            let What::Job(job) = &part.what else { return Ok(part) };
            part.what = match self.publisher.publish(job, headers, deadline).await {
                Ok(stored) => What::Submitted(stored),
                Err(reason @ IngestReason::JobTooLarge) => {
                    tracing::warn!(
                        rule = part.rule.name(),
                        job_id = job.id,
                        bytes = job.payload.len(),
                        "a job is larger than the jobs stream accepts: no job is stored; shorten the rule's tasks"
                    );
                    What::Failed(reason)
                }
                Err(reason) => return Err((part.rule, reason)),
            };
            if matches!(part.what, What::Submitted(Stored::New)) {
                self.measure_lag(&part);
            }
            Ok(part)
        };
        // Most events have one record.
        if let [_] = parts[..] {
            return stream::iter(parts).then(publish).try_collect().await;
        }
        stream::iter(parts).map(publish).buffered(CONCURRENT).try_collect().await
    }

    fn measure_lag(&self, part: &Part) {
        if let Some(time) = part.time {
            // Negative if the clocks differ.
            let lag = Duration::try_from(OffsetDateTime::now_utc() - time).unwrap_or_default();
            self.instruments.ingest_lag(part.rule.name(), lag);
        }
    }

    fn count(&self, parts: &[Part]) -> Counts {
        let mut counts = Counts::default();
        for Part { rule, what, .. } in parts {
            let (count, outcome, reason) = match what {
                What::Submitted(Stored::New) => (&mut counts.jobs, IngestOutcome::Submitted, None),
                What::Submitted(Stored::Duplicate) => (&mut counts.duplicates, IngestOutcome::Duplicate, None),
                What::Skipped(reason) => (&mut counts.skipped, IngestOutcome::Skipped, Some(*reason)),
                What::Failed(reason) => (&mut counts.failed, IngestOutcome::Failed, Some(*reason)),
                What::Job(_) => continue,
            };
            *count += 1;
            self.instruments.record_ingested(Some(rule.name()), outcome, reason);
        }
        counts
    }
}

/// Applies a rule to a record.
fn part(rule: &Arc<Rule>, record: &Record) -> Part {
    let (time, what) = match record {
        Record::Other { reason: reason @ IngestReason::Unreadable, what } => {
            tracing::warn!(rule = rule.name(), "a record of an event cannot be read: {what}");
            (None, What::Failed(*reason))
        }
        Record::Other { reason: reason @ IngestReason::Confirmation, what } => {
            tracing::warn!(
                rule = rule.name(),
                "a topic asks for a confirmation: open the address if it is yours: {what}"
            );
            (None, What::Skipped(*reason))
        }
        Record::Other { reason, what } => {
            tracing::debug!(rule = rule.name(), reason = reason.word(), what, "record skipped");
            (None, What::Skipped(*reason))
        }
        Record::Object(object) => {
            let what = match rule.select(object) {
                Selected::Job(job) => What::Job(JobMessage {
                    subject: rule.jobs_subject(),
                    payload: job.encode_to_vec().into(),
                    id: job.job_id,
                }),
                Selected::Skipped(reason) => {
                    let (rule, reason_word) = (rule.name(), reason.word());
                    tracing::debug!(
                        rule,
                        reason = reason_word,
                        bucket = object.bucket,
                        key = object.key,
                        "record skipped"
                    );
                    What::Skipped(reason)
                }
                Selected::Failed(reason, problem) => {
                    let rule = rule.name();
                    tracing::warn!(
                        rule,
                        bucket = object.bucket,
                        key = object.key,
                        "a record becomes no job: {problem}"
                    );
                    What::Failed(reason)
                }
            };
            (object.time, what)
        }
    };
    Part { rule: Arc::clone(rule), time, what }
}
