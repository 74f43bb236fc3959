//! What is owed, and whether it was paid: exactly once, and for the right reason.

use std::collections::{BTreeMap, HashMap};

use async_nats::jetstream;
use broker::read::{self, Range};
use futures::TryStreamExt;
use serde::Serialize;
use wire::Message;
use wire::subjects::{ANNOTATIONS_STREAM, FAILED_STREAM};
use wire::v1::{ImageAnnotation, JobFailure};

use crate::plan::PlannedJob;

/// The figures of a run: the last line of `tests/soak.sh`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Jobs whose submission was acknowledged.
    pub jobs: usize,
    /// Faults of processes, servers and connections that were made; those of the store come on top.
    pub faults: usize,
    /// Annotations in their stream.
    pub annotations: usize,
    /// Failures in their stream.
    pub dead_letters: usize,
    /// Jobs with neither.
    pub lost: usize,
    /// Records beyond the first: ids that are in a stream again, and jobs that have more than one record.
    pub duplicates: usize,
    /// Jobs that were given up for a reason that is not theirs, or annotated where they should not be, or in other
    /// words than expected.
    pub wrong_reason: usize,
    /// Length of the run.
    pub seconds: f64,
}

/// Everything in the output streams.
#[derive(Debug, Default)]
pub struct Records {
    /// Annotations.
    pub annotations: Vec<ImageAnnotation>,
    /// Failures.
    pub failures: Vec<JobFailure>,
}

impl Records {
    /// Reads both streams whole.
    ///
    /// # Errors
    /// When a stream cannot be read.
    pub async fn read(jetstream: &jetstream::Context) -> anyhow::Result<Self> {
        let (annotations, failures) =
            (records(jetstream, ANNOTATIONS_STREAM).await?, records(jetstream, FAILED_STREAM).await?);
        Ok(Self { annotations, failures })
    }
}

async fn records<M: Message + Default>(jetstream: &jetstream::Context, stream: &str) -> anyhow::Result<Vec<M>> {
    // Repetitions are what is looked for.
    let all = Range { deduplicate: false, ..Range::all() };
    let stored = read::read(jetstream, stream, all).await?;
    stored.map_err(anyhow::Error::from).and_then(async |stored| Ok(M::decode(stored.payload)?)).try_collect().await
}

/// Holds the records against the jobs that were accepted. What is wrong is told, each in a line.
pub fn judge(accepted: &[PlannedJob], records: &Records) -> (Figures, Vec<String>) {
    let mut wrong = Vec::new();
    let mut figures = Figures {
        jobs: accepted.len(),
        annotations: records.annotations.len(),
        dead_letters: records.failures.len(),
        ..Figures::default()
    };
    let mut annotated: HashMap<&str, Vec<&ImageAnnotation>> = HashMap::new();
    let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
    for annotation in &records.annotations {
        annotated.entry(&annotation.job_id).or_default().push(annotation);
        *ids.entry(&annotation.annotation_id).or_default() += 1;
    }
    for (id, count) in ids.into_iter().filter(|(_, count)| *count > 1) {
        wrong.push(format!("annotation {id} is in the stream {count} times"));
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
            figures.lost += 1;
            wrong.push(format!("{} is lost", job.id));
        } else if count > 1 {
            figures.duplicates += count - 1;
            let (done, given_up) = (annotations.len(), failures.len());
            wrong.push(format!("{} has {done} annotations and {given_up} failures", job.id));
        }
        let texts = |annotation: &ImageAnnotation| -> Vec<String> {
            annotation.results.iter().map(|result| result.text.clone()).collect()
        };
        for annotation in annotations {
            if job.expected.texts.as_ref() != Some(&texts(annotation)) {
                figures.wrong_reason += 1;
                wrong.push(format!("{} says {:?}, not {:?}", job.id, texts(annotation), job.expected));
            }
        }
        for failure in failures {
            if !job.expected.reasons.contains(&failure.reason()) {
                figures.wrong_reason += 1;
                wrong.push(format!(
                    "{} was given up for {:?}: {}; expected {:?}",
                    job.id,
                    failure.reason(),
                    failure.message,
                    job.expected
                ));
            }
        }
    }
    // Submissions without an acknowledgement may have been taken all the same; what they lead to is nobody's debt.
    (figures, wrong)
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
        let (figures, wrong) = judge(&jobs, &records);
        let expected = Figures {
            jobs: 7,
            annotations: 5,
            dead_letters: 3,
            lost: 1,
            duplicates: 2,
            wrong_reason: 2,
            ..Figures::default()
        };
        assert_eq!(figures, expected, "{wrong:?}");
    }
}
