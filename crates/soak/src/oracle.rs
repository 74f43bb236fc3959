//! Compares the output streams with the accepted jobs.

use std::collections::{BTreeMap, HashMap};

use async_nats::jetstream;
use broker::read::{self, Range};
use futures::TryStreamExt;
use serde::Serialize;
use wire::Message;
use wire::subjects::{ANNOTATIONS_STREAM, FAILED_STREAM};
use wire::v1::{ImageAnnotation, JobFailure};

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
    pub dead_letters: usize,
    /// Jobs with neither an annotation nor a failure.
    pub lost: usize,
    /// Annotations and failures beyond the first of each job.
    pub duplicates: usize,
    /// Annotations and failures that were not expected: a failure with another reason, an annotation of a job that must
    /// fail, or one with other texts.
    pub wrong_reason: usize,
    /// Duration of the run in seconds.
    pub seconds: f64,
}

/// The contents of the output streams.
#[derive(Debug, Default)]
pub struct Records {
    /// The annotations stream.
    pub annotations: Vec<ImageAnnotation>,
    /// The failed stream.
    pub failures: Vec<JobFailure>,
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

async fn records<M: Message + Default>(jetstream: &jetstream::Context, stream: &str) -> anyhow::Result<Vec<M>> {
    // Duplicates are what the oracle looks for.
    let all = Range { deduplicate: false, ..Range::all() };
    let stored = read::read(jetstream, stream, all).await?;
    stored.map_err(anyhow::Error::from).and_then(async |stored| Ok(M::decode(stored.payload)?)).try_collect().await
}

/// Compares the records with the accepted jobs. Returns the counts, and a line for each problem.
pub fn compare(accepted: &[PlannedJob], records: &Records) -> (Summary, Vec<String>) {
    let mut problems = Vec::new();
    let mut summary = Summary {
        jobs: accepted.len(),
        annotations: records.annotations.len(),
        dead_letters: records.failures.len(),
        ..Summary::default()
    };
    let mut annotated: HashMap<&str, Vec<&ImageAnnotation>> = HashMap::new();
    let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
    for annotation in &records.annotations {
        annotated.entry(&annotation.job_id).or_default().push(annotation);
        *ids.entry(&annotation.annotation_id).or_default() += 1;
    }
    for (id, count) in ids.into_iter().filter(|(_, count)| *count > 1) {
        problems.push(format!("annotation {id} is in the stream {count} times"));
    }
    let mut failed: HashMap<&str, Vec<&JobFailure>> = HashMap::new();
    for failure in &records.failures {
        failed.entry(&failure.job_sha256).or_default().push(failure);
    }
    for job in accepted {
        let annotations = annotated.remove(job.id.as_str()).unwrap_or_default();
        let failures = failed.remove(job.sha256().as_str()).unwrap_or_default();
        let count = annotations.len() + failures.len();
        if count == 0 {
            summary.lost += 1;
            problems.push(format!("{} is lost", job.id));
        } else if count > 1 {
            summary.duplicates += count - 1;
            let (annotated, failed) = (annotations.len(), failures.len());
            problems.push(format!("{} has {annotated} annotations and {failed} failures", job.id));
        }
        let texts = |annotation: &ImageAnnotation| -> Vec<String> {
            annotation.results.iter().map(|result| result.text.clone()).collect()
        };
        for annotation in annotations {
            if job.expected.texts.as_ref() != Some(&texts(annotation)) {
                summary.wrong_reason += 1;
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
                summary.wrong_reason += 1;
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
    use wire::v1::{FailureReason, TaskResult};

    fn job(id: &str) -> PlannedJob {
        let expected = Expected { texts: Some(vec!["a".into()]), reasons: vec![FailureReason::ObjectNotFound] };
        PlannedJob { id: id.into(), dataset: "d", payload: id.into(), object: None, expected }
    }

    fn annotation(id: &str, text: &str) -> ImageAnnotation {
        let results = vec![TaskResult { text: text.into(), ..Default::default() }];
        ImageAnnotation { annotation_id: id.into(), job_id: id.into(), results, ..Default::default() }
    }

    fn failure(id: &str, reason: FailureReason) -> JobFailure {
        JobFailure { job_sha256: job(id).sha256(), reason: reason.into(), ..Default::default() }
    }

    #[test]
    fn each_way_to_break_the_promise_is_seen() {
        let jobs = [job("fine"), job("lost"), job("twice"), job("both"), job("reason"), job("text"), job("failed")];
        let records = Records {
            annotations: vec![
                annotation("fine", "a"),
                annotation("twice", "a"),
                annotation("twice", "a"),
                annotation("both", "a"),
                annotation("text", "b"),
            ],
            failures: vec![
                failure("both", FailureReason::ObjectNotFound),
                failure("reason", FailureReason::InvalidJob),
                failure("failed", FailureReason::ObjectNotFound),
            ],
        };
        let (summary, problems) = compare(&jobs, &records);
        let expected = Summary {
            jobs: 7,
            annotations: 5,
            dead_letters: 3,
            lost: 1,
            duplicates: 2,
            wrong_reason: 2,
            ..Summary::default()
        };
        assert_eq!(summary, expected, "{problems:?}");
    }
}
