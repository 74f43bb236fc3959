//! Compares the output streams with the accepted jobs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_nats::jetstream;
use broker::read::{self, Range};
use futures::TryStreamExt;
use serde::Serialize;
use wire::Message;
use wire::subjects::{ANNOTATIONS_STREAM, FAILED_STREAM};
use wire::v1::{ImageAnnotation, JobFailure};

use crate::claims::Claims;
use crate::plan::PlannedJob;

/// The counts of a run, which `tests/soak.sh` prints as its last line.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Accepted jobs: those whose submission was acknowledged.
    pub jobs: usize,
    /// Injected faults, without those of the S3 store.
    pub faults: usize,
    /// Annotations in the annotations stream.
    pub annotations: usize,
    /// Failures in the failed stream.
    pub failures: usize,
    /// Jobs with neither an annotation nor a failure.
    pub lost: usize,
    /// Annotations and failures beyond the first of each message of the jobs stream.
    pub duplicates: usize,
    /// Jobs that the jobs stream stored more than once. A server remembers the id of a job that has left the stream only
    /// until it is restarted, so such a job may be submitted again, and is then annotated again with the same id.
    pub stored_again: usize,
    /// Annotations and failures that were not expected: a failure with another reason, an annotation of a job that must
    /// fail, or one with other texts.
    pub unexpected: usize,
    /// Duration of the run in seconds.
    pub seconds: f64,
}

/// The contents of the output streams, by sequence.
#[derive(Debug, Default)]
pub struct Records {
    /// The annotations stream.
    pub annotations: BTreeMap<u64, ImageAnnotation>,
    /// The failed stream.
    pub failures: BTreeMap<u64, JobFailure>,
}

impl Records {
    /// Reads both streams.
    ///
    /// # Errors
    /// If a stream cannot be read.
    pub async fn read(jetstream: &jetstream::Context) -> anyhow::Result<Self> {
        let (annotations, failures) =
            (records(jetstream, ANNOTATIONS_STREAM).await?, records(jetstream, FAILED_STREAM).await?);
        Ok(Self { annotations, failures })
    }
}

async fn records<M: Message + Default>(
    jetstream: &jetstream::Context,
    stream: &str,
) -> anyhow::Result<BTreeMap<u64, M>> {
    // Duplicates are what the oracle looks for.
    let all = Range { deduplicate: false, ..Range::all() };
    let stored = read::read(jetstream, stream, all).await?;
    stored
        .map_err(anyhow::Error::from)
        .and_then(async |stored| Ok((stored.sequence, M::decode(stored.payload)?)))
        .try_collect()
        .await
}

/// Compares the records with the accepted jobs. `sequences` has those of the jobs stream for the ids of jobs that were
/// submitted directly. Returns the counts, and a line for each problem.
pub fn compare(
    accepted: &[PlannedJob],
    sequences: &HashMap<String, u64>,
    records: &Records,
    claims: &Claims,
) -> (Summary, Vec<String>) {
    let mut problems = Vec::new();
    let mut summary = Summary {
        jobs: accepted.len(),
        annotations: records.annotations.len(),
        failures: records.failures.len(),
        ..Summary::default()
    };
    let messages = claims.messages(records);
    let mut annotated: HashMap<&str, Vec<&ImageAnnotation>> = HashMap::new();
    for annotation in records.annotations.values() {
        annotated.entry(&annotation.job_id).or_default().push(annotation);
    }
    let mut failed: HashMap<&str, Vec<&JobFailure>> = HashMap::new();
    for failure in records.failures.values() {
        failed.entry(&failure.job_sha256).or_default().push(failure);
    }
    for job in accepted {
        let sha256 = job.sha256();
        let annotations = annotated.remove(job.id.as_str()).unwrap_or_default();
        let failures = failed.remove(sha256.as_str()).unwrap_or_default();
        let of_job = [job.id.as_str(), sha256.as_str()];
        let stored: BTreeSet<&str> = of_job.iter().filter_map(|name| messages.get(name)).flatten().copied().collect();
        summary.stored_again += usize::from(stored.len() > 1);
        let (count, expected) = (annotations.len() + failures.len(), stored.len().max(1));
        if count == 0 {
            summary.lost += 1;
            let claimed = sequences.get(&job.id).map_or_else(String::new, |&sequence| claims.describe(sequence));
            problems.push(format!("{} is lost; {claimed}", job.id));
        } else if count > expected {
            summary.duplicates += count - expected;
            let (annotated, failed) = (annotations.len(), failures.len());
            problems.push(format!(
                "{} has {annotated} annotations and {failed} failures; it was stored as {stored:?}",
                job.id
            ));
        }
        let texts = |annotation: &ImageAnnotation| -> Vec<String> {
            annotation.results.iter().map(|result| result.text.clone()).collect()
        };
        for annotation in annotations {
            if job.expected.texts.as_ref() != Some(&texts(annotation)) {
                summary.unexpected += 1;
                problems.push(format!(
                    "{} has the texts {:?} instead of {:?}",
                    job.id,
                    texts(annotation),
                    job.expected
                ));
            }
        }
        for failure in failures {
            if !job.expected.reasons.contains(&failure.reason()) {
                summary.unexpected += 1;
                problems.push(format!(
                    "{} failed for the reason {:?}: {}; expected {:?}",
                    job.id,
                    failure.reason(),
                    failure.message,
                    job.expected
                ));
            }
        }
    }
    // A submission without an acknowledgement may have been stored. Its records are not checked.
    (summary, problems)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Expected;
    use wire::v1::outcome::Record;
    use wire::v1::{FailureReason, Settled, TaskResult};

    fn job(id: &str) -> PlannedJob {
        let expected = Expected { texts: Some(vec!["a".into()]), reasons: vec![FailureReason::ObjectNotFound] };
        PlannedJob { id: id.into(), dataset: "d", payload: id.into(), object: None, expected }
    }

    fn annotation(id: &str, text: &str) -> ImageAnnotation {
        let results = vec![TaskResult { text: text.into(), ..Default::default() }];
        ImageAnnotation { annotation_id: id.into(), job_id: id.into(), results, ..Default::default() }
    }

    /// Messages of a stream.
    fn stream<M>(messages: impl IntoIterator<Item = M>) -> BTreeMap<u64, M> {
        (1..).zip(messages).collect()
    }

    fn failure(id: &str, reason: FailureReason) -> JobFailure {
        JobFailure { job_sha256: job(id).sha256(), reason: reason.into(), ..Default::default() }
    }

    #[test]
    fn each_way_to_break_the_promise_is_seen() {
        let jobs = [job("fine"), job("lost"), job("twice"), job("both"), job("reason"), job("text"), job("failed")];
        let records = Records {
            annotations: stream([
                annotation("fine", "a"),
                annotation("twice", "a"),
                annotation("twice", "a"),
                annotation("both", "a"),
                annotation("text", "b"),
            ]),
            failures: stream([
                failure("both", FailureReason::ObjectNotFound),
                failure("reason", FailureReason::InvalidJob),
                failure("failed", FailureReason::ObjectNotFound),
            ]),
        };
        let (summary, problems) = compare(&jobs, &HashMap::new(), &records, &Claims::default());
        let expected = Summary {
            jobs: 7,
            annotations: 5,
            failures: 3,
            lost: 1,
            duplicates: 2,
            unexpected: 2,
            ..Summary::default()
        };
        assert_eq!(summary, expected, "{problems:?}");
    }

    #[test]
    fn a_job_that_was_stored_again_may_be_annotated_again() {
        let jobs = [job("stored-twice"), job("published-twice"), job("lost")];
        let annotations = ["stored-twice", "stored-twice", "published-twice", "published-twice"];
        let records = Records { annotations: stream(annotations.map(|id| annotation(id, "a"))), failures: stream([]) };
        let mut claims = Claims::default();
        claims.add("groundling.outcomes.1-5".into(), Record::Annotation(annotation("stored-twice", "a")));
        claims.add("groundling.outcomes.2-6".into(), Record::Settled(Settled { sequence: 2, failed: false }));
        claims.add("groundling.outcomes.3-7".into(), Record::Annotation(annotation("published-twice", "a")));
        claims.add("groundling.outcomes.3-7".into(), Record::Settled(Settled { sequence: 3, failed: false }));
        claims.add("groundling.outcomes.40-8".into(), Record::Annotation(annotation("lost", "a")));
        let sequences = HashMap::from([("lost".to_owned(), 4)]);
        let (summary, problems) = compare(&jobs, &sequences, &records, &claims);
        let Summary { stored_again, duplicates, lost, .. } = summary;
        assert_eq!((stored_again, duplicates, lost), (1, 1, 1), "{problems:?}");
        assert_eq!(problems[1], "lost is lost; no worker claimed an outcome for its sequence 4");
    }
}
