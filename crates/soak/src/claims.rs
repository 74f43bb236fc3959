//! The outcomes that workers claim during a run: they tell which messages of the jobs stream were processed, and with
//! what result.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use async_nats::jetstream;
use broker::read::{self, Range};
use futures::TryStreamExt;
use tokio::sync::watch;
use wire::Message;
use wire::subjects::{OUTCOMES_STREAM, outcome_subject};
use wire::v1::{Outcome, outcome};

use crate::oracle::Records;

/// How often new outcomes are read: much shorter than the duplicate window of a run, after which they are deleted.
const INTERVAL: Duration = Duration::from_secs(5);

/// Outcomes by the message of the jobs stream that they belong to.
#[derive(Debug, Default)]
pub struct Claims {
    by_message: HashMap<String, Vec<outcome::Record>>,
}

impl Claims {
    /// Collects the outcomes until `over`.
    ///
    /// # Errors
    /// If the outcomes stream cannot be read at the end.
    pub async fn collect(jetstream: jetstream::Context, mut over: watch::Receiver<bool>) -> anyhow::Result<Self> {
        let (mut claims, mut next) = (Self::default(), 0);
        loop {
            // Without a sender, the run has failed.
            let is_over = *over.borrow() || over.has_changed().is_err();
            match read_from(&jetstream, next).await {
                Ok(stored) => {
                    for (sequence, message, outcome) in stored {
                        next = sequence + 1;
                        claims.add(message, outcome);
                    }
                    if is_over {
                        return Ok(claims);
                    }
                }
                Err(error) if is_over => return Err(error),
                Err(error) => tracing::debug!("outcomes are read again later: {error:#}"),
            }
            let _ = tokio::time::timeout(INTERVAL, over.wait_for(|over| *over)).await;
        }
    }

    pub(crate) fn add(&mut self, message: String, record: outcome::Record) {
        self.by_message.entry(message).or_default().push(record);
    }

    /// The messages that were processed for each job. The jobs are named as in their annotations and failures: by id or
    /// by digest.
    pub(crate) fn messages<'a>(&'a self, records: &'a Records) -> HashMap<&'a str, BTreeSet<&'a str>> {
        let mut messages: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        for (message, outcomes) in &self.by_message {
            for job in outcomes.iter().filter_map(|outcome| job_of(outcome, records)) {
                messages.entry(job).or_default().insert(message);
            }
        }
        messages
    }

    /// What was claimed for the message with this sequence of the jobs stream, for a report.
    pub(crate) fn describe(&self, sequence: u64) -> String {
        // The rest of the subject is the time of the message.
        let subject = outcome_subject(sequence, 0);
        let prefix = subject.trim_end_matches('0');
        let of_message = self.by_message.iter().filter(|(message, _)| message.starts_with(prefix));
        let claimed: Vec<&str> = of_message.flat_map(|(_, outcomes)| outcomes).map(name).collect();
        match claimed.is_empty() {
            true => format!("no worker claimed an outcome for its sequence {sequence}"),
            false => format!("its sequence {sequence} has the outcomes: {}", claimed.join(", ")),
        }
    }
}

/// The outcomes from a sequence on, with their sequences and messages.
async fn read_from(jetstream: &jetstream::Context, first: u64) -> anyhow::Result<Vec<(u64, String, outcome::Record)>> {
    let range = Range { sequences: first..=u64::MAX, deduplicate: false, ..Range::all() };
    let stored: Vec<_> = read::read(jetstream, OUTCOMES_STREAM, range).await?.try_collect().await?;
    let mut outcomes = Vec::new();
    for stored in stored {
        // The stream also has the times of first refusals, without a record.
        if let Some(outcome) = Outcome::decode(stored.payload)?.record {
            outcomes.push((stored.sequence, stored.subject, outcome));
        }
    }
    Ok(outcomes)
}

fn name(outcome: &outcome::Record) -> &'static str {
    match outcome {
        outcome::Record::Annotation(_) => "annotation",
        outcome::Record::Failure(_) => "failure",
        outcome::Record::Settled(settled) if settled.failed => "published failure",
        outcome::Record::Settled(_) => "published annotation",
    }
}

fn job_of<'a>(outcome: &'a outcome::Record, records: &'a Records) -> Option<&'a str> {
    match outcome {
        outcome::Record::Annotation(annotation) => Some(&annotation.job_id),
        outcome::Record::Failure(failure) => Some(&failure.job_sha256),
        outcome::Record::Settled(settled) if settled.failed => {
            records.failures.get(&settled.sequence).map(|failure| failure.job_sha256.as_str())
        }
        outcome::Record::Settled(settled) => {
            records.annotations.get(&settled.sequence).map(|annotation| annotation.job_id.as_str())
        }
    }
}
