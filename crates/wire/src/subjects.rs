//! Names on the NATS server: subjects and streams, and what may stand in them.

use std::fmt;
use std::str::FromStr;

/// Stream of the jobs, a work queue.
pub const JOBS_STREAM: &str = "GROUNDLING_JOBS";
/// Stream of the annotations.
pub const ANNOTATIONS_STREAM: &str = "GROUNDLING_ANNOTATIONS";
/// Stream of the failures, the dead letters.
pub const FAILED_STREAM: &str = "GROUNDLING_FAILED";
/// Stream of the outcomes: what becomes of each job, written down before it is published. Between workers only.
pub const OUTCOMES_STREAM: &str = "GROUNDLING_OUTCOMES";
/// Stream of the attempts at jobs that did not end them. Between workers only.
pub const ATTEMPTS_STREAM: &str = "GROUNDLING_ATTEMPTS";
/// Stream of the jobs that wait for their next attempt, a work queue. Between workers only.
pub const RETRIES_STREAM: &str = "GROUNDLING_RETRIES";
/// Stream of the server's own word that it gave up handing out a job.
pub const ADVISORIES_STREAM: &str = "GROUNDLING_ADVISORIES";

/// Every job subject: what the jobs stream listens to.
pub const JOBS_WILDCARD: &str = "groundling.jobs.*";
/// What consumers of the jobs stream take of it: all jobs, and no cursors.
pub const JOBS_FILTER: &str = "groundling.jobs.>";
/// Every cursor subject. Cursors are in the jobs stream, so that jobs and cursor are stored in one atomic batch.
pub const CURSORS_WILDCARD: &str = "groundling.cursor.*.*";
/// Every annotation subject.
pub const ANNOTATIONS_WILDCARD: &str = "groundling.annotations.*";
/// Every failure subject.
pub const FAILED_WILDCARD: &str = "groundling.failed.*";
/// Every outcome subject.
pub const OUTCOMES_WILDCARD: &str = "groundling.outcomes.*";
/// Every attempt subject.
pub const ATTEMPTS_WILDCARD: &str = "groundling.attempts.*.*";
/// Every retry subject.
pub const RETRIES_WILDCARD: &str = "groundling.retries.*.*";

const JOBS_PREFIX: &str = "groundling.jobs.";
const CURSOR_PREFIX: &str = "groundling.cursor.";
const ANNOTATIONS_PREFIX: &str = "groundling.annotations.";
const FAILED_PREFIX: &str = "groundling.failed.";
const OUTCOMES_PREFIX: &str = "groundling.outcomes.";
const ATTEMPTS_PREFIX: &str = "groundling.attempts.";
const RETRIES_PREFIX: &str = "groundling.retries.";

/// Longest name of a dataset in bytes. NATS takes longer ones, but subjects stand in file names and tables.
pub const MAX_DATASET_BYTES: usize = 128;

/// A dataset's name, known to be one token of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dataset(String);

/// Why a text is no dataset name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatasetError {
    /// Nothing there.
    #[error("the dataset's name is empty: give one, for example \"holiday-2024\"")]
    Empty,
    /// More than [`MAX_DATASET_BYTES`].
    #[error("the dataset's name has {0} bytes, more than {MAX_DATASET_BYTES}: shorten it")]
    TooLong(usize),
    /// A character that has a meaning of its own in subjects, or none that can be seen.
    #[error("the dataset's name {name:?} contains {found:?}: leave out blanks, control characters, '.', '*' and '>'")]
    Character {
        /// The name.
        name: String,
        /// The first character that cannot stay.
        found: char,
    },
}

impl Dataset {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where this dataset's jobs are published.
    pub fn jobs_subject(&self) -> String {
        format!("{JOBS_PREFIX}{}", self.0)
    }

    /// Where the position in this dataset's source is stored: `name` is a lane's number, `plan` or `feeder`.
    pub fn cursor_subject(&self, name: &str) -> String {
        format!("{CURSOR_PREFIX}{}.{name}", self.0)
    }

    /// Where this dataset's annotations are published.
    pub fn annotations_subject(&self) -> String {
        format!("{ANNOTATIONS_PREFIX}{}", self.0)
    }

    /// Where this dataset's failures are published.
    pub fn failed_subject(&self) -> String {
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

/// The last token of a job's subject, unchecked; `None` where the subject is no job's.
pub fn dataset_token(job_subject: &str) -> Option<&str> {
    job_subject.strip_prefix(JOBS_PREFIX).filter(|token| !token.is_empty())
}

/// Whether a subject is a cursor's.
pub fn is_cursor(subject: &str) -> bool {
    subject.starts_with(CURSOR_PREFIX)
}

/// Where the failure of a job goes that came in on `job_subject`.
///
/// The token is taken over unchecked: it has stood in a subject before, so it can stand in one again, and a job with a
/// name too long for [`Dataset`] must have somewhere to go. A subject that is no job's ends at
/// `groundling.failed.unknown`.
pub fn failed_subject_for(job_subject: &str) -> String {
    format!("{FAILED_PREFIX}{}", dataset_token(job_subject).unwrap_or("unknown"))
}

/// Where the outcome of one message of the jobs stream is written down. The time of its publication (nanoseconds since
/// 1970) stands beside its sequence, for the stream may be deleted and made anew.
pub fn outcome_subject(sequence: u64, published_nanos: u64) -> String {
    format!("{OUTCOMES_PREFIX}{sequence}-{published_nanos}")
}

/// Where one delivery of a message of the jobs stream is recorded as an attempt.
pub fn attempt_subject(sequence: u64, published_nanos: u64, delivery: u64) -> String {
    format!("{ATTEMPTS_PREFIX}{sequence}-{published_nanos}.{delivery}")
}

/// The filter that matches all attempts at a message of the jobs stream.
pub fn attempts_subject(sequence: u64, published_nanos: u64) -> String {
    format!("{ATTEMPTS_PREFIX}{sequence}-{published_nanos}.*")
}

/// Where a message of the jobs stream that came in on `job_subject` waits for its next attempt. The dataset is taken
/// over unchecked, as by [`failed_subject_for`].
pub fn retry_subject(job_subject: &str, sequence: u64, published_nanos: u64) -> String {
    let dataset = dataset_token(job_subject).unwrap_or("unknown");
    format!("{RETRIES_PREFIX}{dataset}.{sequence}-{published_nanos}")
}

/// Where it is written down that a worker's own settings forbade it one message of the jobs stream for the first time.
/// In the stream of outcomes, beside the message's outcome.
pub fn refusal_subject(sequence: u64, published_nanos: u64) -> String {
    format!("{}-refused", outcome_subject(sequence, published_nanos))
}

/// Where the server says that it has handed out a message of `stream` as often as `consumer` allows.
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
        assert_eq!(dataset.cursor_subject("3"), "groundling.cursor.holiday-2024.3");
        assert_eq!(dataset.annotations_subject(), "groundling.annotations.holiday-2024");
        assert_eq!(dataset.failed_subject(), "groundling.failed.holiday-2024");
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
        assert_eq!(failed_subject_for("groundling.jobs.cats"), "groundling.failed.cats");
        assert_eq!(failed_subject_for("elsewhere"), "groundling.failed.unknown");
        assert_eq!(failed_subject_for("groundling.jobs."), "groundling.failed.unknown");
    }
}
