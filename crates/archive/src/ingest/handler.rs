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
use super::publisher::{JobMessage, JobPublisher, PublishOutcome};
use super::record::Record;
use super::rule::{Rule, Selected};

/// Maximum number of jobs of one event that are published at once.
const CONCURRENCY: usize = 16;

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

/// A record of an event for one rule.
struct RuleRecord {
    rule: Arc<Rule>,
    time: Option<OffsetDateTime>,
    state: RecordState,
}

/// What a rule makes of a record, and then what became of it.
enum RecordState {
    Job(JobMessage),
    Skipped(IngestReason),
    Failed(IngestReason),
    Submitted(PublishOutcome),
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
        let (mut records, mut trace, mut unreadable) = (Vec::new(), None, None);
        for rule in rules {
            match formats::decode(rule.format(), headers, body) {
                Ok(decoded) => {
                    trace = decoded.trace.or(trace);
                    records.extend(decoded.records.iter().map(|record| apply_rule(rule, record)));
                }
                Err(error) => {
                    tracing::warn!(rule = rule.name(), bytes = body.len(), "an event cannot be read: {error}");
                    records.push(RuleRecord {
                        rule: Arc::clone(rule),
                        time: None,
                        state: RecordState::Failed(IngestReason::Unreadable),
                    });
                    unreadable.get_or_insert(error.to_string());
                }
            }
        }
        let records = match self.publish(records, &job_headers(trace.as_ref()), deadline).await {
            Ok(records) => records,
            Err((rule, reason)) => {
                self.instruments.record_ingested(Some(rule.name()), IngestOutcome::SentBack, Some(reason));
                return Handled::SentBack(reason);
            }
        };
        // Not before the event is at its end: each record is counted once.
        let counts = self.count(&records);
        match unreadable {
            Some(error) if counts.failed == records.len() => Handled::Unreadable(error),
            _ => Handled::Done(counts),
        }
    }

    /// Publishes the jobs among the records. If one cannot be stored, returns its rule and why.
    async fn publish(
        &self,
        records: Vec<RuleRecord>,
        headers: &HeaderMap,
        deadline: Instant,
    ) -> Result<Vec<RuleRecord>, (Arc<Rule>, IngestReason)> {
        let publish = async |mut record: RuleRecord| {
            let RecordState::Job(job) = &record.state else { return Ok(record) };
            record.state = match self.publisher.publish(job, headers, deadline).await {
                Ok(outcome) => RecordState::Submitted(outcome),
                Err(reason @ IngestReason::JobTooLarge) => {
                    tracing::warn!(
                        rule = record.rule.name(),
                        job_id = job.id,
                        bytes = job.payload.len(),
                        "a job is larger than the jobs stream accepts: no job is stored; shorten the rule's tasks"
                    );
                    RecordState::Failed(reason)
                }
                Err(reason) => return Err((record.rule, reason)),
            };
            if matches!(record.state, RecordState::Submitted(PublishOutcome::New)) {
                self.measure_lag(&record);
            }
            Ok(record)
        };
        // Most events have one record.
        if let [_] = records[..] {
            return stream::iter(records).then(publish).try_collect().await;
        }
        stream::iter(records).map(publish).buffered(CONCURRENCY).try_collect().await
    }

    fn measure_lag(&self, record: &RuleRecord) {
        if let Some(time) = record.time {
            // Negative if the clocks differ.
            let lag = Duration::try_from(OffsetDateTime::now_utc() - time).unwrap_or_default();
            self.instruments.ingest_lag(record.rule.name(), lag);
        }
    }

    fn count(&self, records: &[RuleRecord]) -> Counts {
        let mut counts = Counts::default();
        for RuleRecord { rule, state, .. } in records {
            let (count, outcome, reason) = match state {
                RecordState::Submitted(PublishOutcome::New) => (&mut counts.jobs, IngestOutcome::Submitted, None),
                RecordState::Submitted(PublishOutcome::Duplicate) => {
                    (&mut counts.duplicates, IngestOutcome::Duplicate, None)
                }
                RecordState::Skipped(reason) => (&mut counts.skipped, IngestOutcome::Skipped, Some(*reason)),
                RecordState::Failed(reason) => (&mut counts.failed, IngestOutcome::Failed, Some(*reason)),
                RecordState::Job(_) => continue,
            };
            *count += 1;
            self.instruments.record_ingested(Some(rule.name()), outcome, reason);
        }
        counts
    }
}

/// Applies a rule to a record.
fn apply_rule(rule: &Arc<Rule>, record: &Record) -> RuleRecord {
    let (time, state) = match record {
        Record::Other { reason: reason @ IngestReason::Unreadable, what } => {
            tracing::warn!(rule = rule.name(), "a record of an event cannot be read: {what}");
            (None, RecordState::Failed(*reason))
        }
        Record::Other { reason: reason @ IngestReason::Confirmation, what } => {
            tracing::warn!(
                rule = rule.name(),
                "a topic asks for a confirmation: open the address if it is yours: {what}"
            );
            (None, RecordState::Skipped(*reason))
        }
        Record::Other { reason, what } => {
            tracing::debug!(rule = rule.name(), reason = reason.as_str(), what, "record skipped");
            (None, RecordState::Skipped(*reason))
        }
        Record::Object(object) => {
            let state = match rule.select(object) {
                Selected::Job(job) => RecordState::Job(JobMessage {
                    subject: rule.jobs_subject(),
                    payload: job.encode_to_vec().into(),
                    id: job.job_id,
                }),
                Selected::Skipped(reason) => {
                    let (rule, reason_word) = (rule.name(), reason.as_str());
                    tracing::debug!(
                        rule,
                        reason = reason_word,
                        bucket = object.bucket,
                        key = object.key,
                        "record skipped"
                    );
                    RecordState::Skipped(reason)
                }
                Selected::Failed(reason, problem) => {
                    let rule = rule.name();
                    tracing::warn!(
                        rule,
                        bucket = object.bucket,
                        key = object.key,
                        "a record becomes no job: {problem}"
                    );
                    RecordState::Failed(reason)
                }
            };
            (object.time, state)
        }
    };
    RuleRecord { rule: Arc::clone(rule), time, state }
}
