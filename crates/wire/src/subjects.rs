//! Names of streams and subjects on the NATS server, and the rule for dataset names.

use std::fmt;
use std::str::FromStr;

use crate::v1::FailureReason;

/// The stream of jobs, a work queue.
pub const JOBS_STREAM: &str = "GROUNDLING_JOBS";
/// The stream of annotations.
pub const ANNOTATIONS_STREAM: &str = "GROUNDLING_ANNOTATIONS";
/// The stream of failures, the dead letters.
pub const FAILED_STREAM: &str = "GROUNDLING_FAILED";
/// The stream of outcomes: how each job ends, recorded before it is published. Used by workers only.
pub const OUTCOMES_STREAM: &str = "GROUNDLING_OUTCOMES";
/// The stream of attempts that failed or have not ended. Used by workers only.
pub const ATTEMPTS_STREAM: &str = "GROUNDLING_ATTEMPTS";
/// The stream of jobs that wait for their next attempt, a work queue. Used by workers only.
pub const RETRIES_STREAM: &str = "GROUNDLING_RETRIES";
/// The stream of the server's advisories about jobs that reached `max_deliver`. Used by workers only.
pub const ADVISORIES_STREAM: &str = "GROUNDLING_ADVISORIES";

/// The stream of events of object stores, a work queue. It exists only if `groundling ingest` reads events from NATS.
pub const EVENTS_STREAM: &str = "GROUNDLING_EVENTS";

/// All job subjects: the subjects of the jobs stream.
pub const JOBS_WILDCARD: &str = "groundling.jobs.*";
/// The filter of the consumer of jobs: all jobs that are not urgent, and no cursors.
pub const JOBS_FILTER: &str = "groundling.jobs.>";
/// All subjects of urgent jobs. They are in the jobs stream and have a consumer of their own, from which workers take jobs
/// first.
pub const URGENT_WILDCARD: &str = "groundling.urgent.*";
/// The filter of the consumer of urgent jobs.
pub const URGENT_FILTER: &str = "groundling.urgent.>";
/// All cursor subjects. Cursors are in the jobs stream, so that jobs and cursor are stored in one atomic batch.
pub const CURSORS_WILDCARD: &str = "groundling.cursor.*.*";
/// All annotation subjects.
pub const ANNOTATIONS_WILDCARD: &str = "groundling.annotations.*";
/// All failure subjects: `groundling.failed.<dataset>.<reason>`, and `groundling.failed.<dataset>` of earlier versions.
pub const FAILED_WILDCARD: &str = "groundling.failed.>";
/// All outcome subjects.
pub const OUTCOMES_WILDCARD: &str = "groundling.outcomes.*";
/// All attempt subjects.
pub const ATTEMPTS_WILDCARD: &str = "groundling.attempts.*.*";
/// All retry subjects.
pub const RETRIES_WILDCARD: &str = "groundling.retries.*.*";

const JOBS_PREFIX: &str = "groundling.jobs.";
const URGENT_PREFIX: &str = "groundling.urgent.";
const CURSOR_PREFIX: &str = "groundling.cursor.";
const ANNOTATIONS_PREFIX: &str = "groundling.annotations.";
const FAILED_PREFIX: &str = "groundling.failed.";
const OUTCOMES_PREFIX: &str = "groundling.outcomes.";
const ATTEMPTS_PREFIX: &str = "groundling.attempts.";
const RETRIES_PREFIX: &str = "groundling.retries.";

/// Maximum length of a dataset name in bytes. NATS allows longer ones.
pub const MAX_DATASET_BYTES: usize = 128;

/// A dataset name: one token of a subject. It has 1 to [`MAX_DATASET_BYTES`] bytes of UTF-8, without whitespace, control
/// characters, `.`, `*` and `>`.
///
/// ```
/// use wire::subjects::Dataset;
///
/// let dataset: Dataset = "holiday-2024".parse()?;
/// assert_eq!(dataset.jobs_subject(), "groundling.jobs.holiday-2024");
/// assert_eq!(dataset.annotations_subject(), "groundling.annotations.holiday-2024");
/// assert_eq!(dataset.failed_wildcard(), "groundling.failed.holiday-2024.*");
/// assert!("holiday.2024".parse::<Dataset>().is_err());
/// # Ok::<(), wire::subjects::DatasetError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dataset(String);

/// Why a string is not a dataset name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatasetError {
    /// The name is empty.
    #[error("the dataset's name is empty: give one, for example \"holiday-2024\"")]
    Empty,
    /// The name has more than [`MAX_DATASET_BYTES`] bytes.
    #[error("the dataset's name has {0} bytes, more than {MAX_DATASET_BYTES}: shorten it")]
    TooLong(usize),
    /// The name contains a character that is not allowed.
    #[error(
        "the dataset's name {name:?} contains {found:?}: leave out whitespace, control characters, '.', '*' and '>'"
    )]
    Character {
        /// The name.
        name: String,
        /// The first character that is not allowed.
        found: char,
    },
}

impl Dataset {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The subject of this dataset's jobs.
    pub fn jobs_subject(&self) -> String {
        format!("{JOBS_PREFIX}{}", self.0)
    }

    /// The subject of this dataset's urgent jobs.
    pub fn urgent_subject(&self) -> String {
        format!("{URGENT_PREFIX}{}", self.0)
    }

    /// The subject of a record about feeding this dataset: `name` is a lane's number, `plan`, `feeder` or `state`.
    pub fn cursor_subject(&self, name: &str) -> String {
        format!("{CURSOR_PREFIX}{}.{name}", self.0)
    }

    /// The subject filter for this dataset's retries.
    pub fn retries_subject(&self) -> String {
        format!("{RETRIES_PREFIX}{}.*", self.0)
    }

    /// The subject of this dataset's annotations.
    pub fn annotations_subject(&self) -> String {
        format!("{ANNOTATIONS_PREFIX}{}", self.0)
    }

    /// The subject of this dataset's failures with this reason.
    pub fn failed_subject(&self, reason: FailureReason) -> String {
        failed_subject(&self.0, reason)
    }

    /// The subject filter for all failures of this dataset.
    pub fn failed_wildcard(&self) -> String {
        format!("{FAILED_PREFIX}{}.*", self.0)
    }

    /// The subject on which earlier versions published all failures of this dataset.
    pub fn failed_subject_without_reason(&self) -> String {
        format!("{FAILED_PREFIX}{}", self.0)
    }
}

impl FromStr for Dataset {
    type Err = DatasetError;

    fn from_str(name: &str) -> Result<Self, DatasetError> {
        if name.is_empty() {
            return Err(DatasetError::Empty);
        }
        if name.len() > MAX_DATASET_BYTES {
            return Err(DatasetError::TooLong(name.len()));
        }
        let forbidden = |c: &char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>');
        match name.chars().find(forbidden) {
            Some(found) => Err(DatasetError::Character { name: name.to_owned(), found }),
            None => Ok(Self(name.to_owned())),
        }
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The last token of a job's subject, urgent or not, unchecked; `None` if it is not the subject of a job.
pub fn dataset_token(job_subject: &str) -> Option<&str> {
    let token = job_subject.strip_prefix(JOBS_PREFIX).or_else(|| job_subject.strip_prefix(URGENT_PREFIX));
    token.filter(|token| !token.is_empty())
}

/// The dataset in a subject of any kind that contains one: its third token, unchecked. `None` if there is no such
/// token.
pub fn dataset_of(subject: &str) -> Option<&str> {
    subject.split('.').nth(2).filter(|token| !token.is_empty())
}

/// Whether a subject is that of an urgent job.
pub fn is_urgent(subject: &str) -> bool {
    subject.starts_with(URGENT_PREFIX)
}

/// Whether a subject is that of a cursor.
pub fn is_cursor(subject: &str) -> bool {
    subject.starts_with(CURSOR_PREFIX)
}

/// The subject for the failure of a job with the subject `job_subject`: `groundling.failed.<dataset>.<reason>`.
///
/// The dataset is not checked: it was part of a subject before, and a job whose dataset name is too long for [`Dataset`]
/// must fail with one too. For a subject that is not a job's, it is `unknown`.
pub fn failed_subject_for(job_subject: &str, reason: FailureReason) -> String {
    failed_subject(dataset_token(job_subject).unwrap_or("unknown"), reason)
}

fn failed_subject(dataset: &str, reason: FailureReason) -> String {
    format!("{FAILED_PREFIX}{dataset}.{}", reason.token())
}

/// The dataset and the reason's token in the subject of a failure, unchecked. Subjects of earlier versions have no reason.
///
/// ```
/// use wire::subjects::failed_tokens;
///
/// assert_eq!(failed_tokens("groundling.failed.cats.internal"), Some(("cats", Some("internal"))));
/// assert_eq!(failed_tokens("groundling.failed.cats"), Some(("cats", None)));
/// assert_eq!(failed_tokens("groundling.jobs.cats"), None);
/// ```
pub fn failed_tokens(subject: &str) -> Option<(&str, Option<&str>)> {
    let tokens = subject.strip_prefix(FAILED_PREFIX)?;
    Some(match tokens.split_once('.') {
        Some((dataset, reason)) => (dataset, Some(reason)),
        None => (tokens, None),
    })
}

/// The subject for the outcome of one message of the jobs stream. It contains the time of publication (nanoseconds since
/// 1970) beside the sequence, because sequences repeat if the stream is deleted and created again.
pub fn outcome_subject(sequence: u64, published_nanos: u64) -> String {
    format!("{OUTCOMES_PREFIX}{sequence}-{published_nanos}")
}

/// The subject for the attempt of one delivery of a message of the jobs stream.
pub fn attempt_subject(sequence: u64, published_nanos: u64, delivery: u64) -> String {
    format!("{ATTEMPTS_PREFIX}{sequence}-{published_nanos}.{delivery}")
}

/// The subject filter for all attempts at a message of the jobs stream.
pub fn attempts_subject(sequence: u64, published_nanos: u64) -> String {
    format!("{ATTEMPTS_PREFIX}{sequence}-{published_nanos}.*")
}

/// The subject for the retry of a message of the jobs stream with the subject `job_subject`. The dataset is not checked, as
/// in [`failed_subject_for`].
pub fn retry_subject(job_subject: &str, sequence: u64, published_nanos: u64) -> String {
    let dataset = dataset_token(job_subject).unwrap_or("unknown");
    format!("{RETRIES_PREFIX}{dataset}.{sequence}-{published_nanos}")
}

/// The subject for the record of when a worker's own settings first forbade one message of the jobs stream. It is in the
/// outcomes stream, beside the message's outcome.
pub fn refusal_subject(sequence: u64, published_nanos: u64) -> String {
    format!("{}-refused", outcome_subject(sequence, published_nanos))
}

/// The subject of the server's advisories about messages of `stream` that reached the `max_deliver` of `consumer`.
pub fn max_deliveries_subject(stream: &str, consumer: &str) -> String {
    format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.{consumer}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_of_the_jobs_stream_has_one_subject_for_its_outcome() {
        assert_eq!(outcome_subject(7, 1_700_000_000_000_000_001), "groundling.outcomes.7-1700000000000000001");
    }

    #[test]
    fn a_retry_is_on_its_datasets_subject_and_its_own() {
        assert_eq!(retry_subject("groundling.jobs.cats", 7, 17), "groundling.retries.cats.7-17");
        assert_eq!(retry_subject("elsewhere", 7, 17), "groundling.retries.unknown.7-17");
    }

    #[test]
    fn a_dataset_names_its_subjects() {
        let dataset: Dataset = "holiday-2024".parse().unwrap();
        assert_eq!(dataset.jobs_subject(), "groundling.jobs.holiday-2024");
        assert_eq!(dataset.urgent_subject(), "groundling.urgent.holiday-2024");
        assert_eq!(dataset.cursor_subject("3"), "groundling.cursor.holiday-2024.3");
        assert_eq!(dataset.annotations_subject(), "groundling.annotations.holiday-2024");
        assert_eq!(
            dataset.failed_subject(FailureReason::ObjectNotFound),
            "groundling.failed.holiday-2024.object_not_found"
        );
        assert_eq!(dataset.failed_wildcard(), "groundling.failed.holiday-2024.*");
        assert_eq!(dataset.failed_subject_without_reason(), "groundling.failed.holiday-2024");
        assert_eq!(dataset.retries_subject(), "groundling.retries.holiday-2024.*");
    }

    #[test]
    fn a_subject_tells_its_dataset() {
        let dataset: Dataset = "cats".parse().unwrap();
        for subject in [
            dataset.jobs_subject(),
            dataset.urgent_subject(),
            dataset.cursor_subject("plan"),
            dataset.annotations_subject(),
            dataset.failed_subject(FailureReason::Internal),
            retry_subject("groundling.jobs.cats", 7, 17),
        ] {
            assert_eq!(dataset_of(&subject), Some("cats"), "{subject}");
        }
        assert_eq!((dataset_of("groundling.jobs"), dataset_of("groundling.jobs.")), (None, None));
    }

    #[test]
    fn a_dataset_is_one_token_without_wildcards_blanks_and_control_characters() {
        for bad in ["a.b", "a*", ">", "a b", "a\tb", "a\u{a0}b", "a\0", "a\r\nPUB x 1"] {
            assert!(matches!(bad.parse::<Dataset>(), Err(DatasetError::Character { .. })), "{bad:?}");
        }
        for good in ["a", "A_b-9", "größe", "日本", "a$b", "a/b"] {
            assert!(good.parse::<Dataset>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn an_empty_and_an_overlong_dataset_are_refused() {
        assert_eq!("".parse::<Dataset>(), Err(DatasetError::Empty));
        assert!("x".repeat(128).parse::<Dataset>().is_ok());
        assert_eq!("x".repeat(129).parse::<Dataset>(), Err(DatasetError::TooLong(129)));
    }

    #[test]
    fn a_failure_goes_to_the_dataset_of_the_subject_it_came_from() {
        let subject = |job_subject| failed_subject_for(job_subject, FailureReason::InvalidJob);
        assert_eq!(subject("groundling.jobs.cats"), "groundling.failed.cats.invalid_job");
        assert_eq!(subject("groundling.urgent.cats"), "groundling.failed.cats.invalid_job");
        assert_eq!(subject("elsewhere"), "groundling.failed.unknown.invalid_job");
        assert_eq!(subject("groundling.jobs."), "groundling.failed.unknown.invalid_job");
    }
}
