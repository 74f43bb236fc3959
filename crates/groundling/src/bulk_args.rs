//! What `groundling status`, `failures` and `reconcile` take. The comments are the program's own help.

use clap::{Args, Subcommand};
use time::OffsetDateTime;
use wire::v1::FailureReason;

use crate::args::{Format, StoreArgs};
use crate::enqueue_args::{FilterArgs, JobGenerationArgs, Pin, positive};

pub(crate) const FAILURES_EXAMPLES: &str = "\
Examples:
  groundling failures list --dataset holiday --reason object_not_found
  groundling failures show 17
  groundling failures replay --dataset holiday --reason retries_exhausted
  groundling failures drop --dataset holiday --since 2026-11-29";

pub(crate) const RECONCILE_EXAMPLES: &str = "\
Examples:
  groundling reconcile s3://archive/2024/ --dataset holiday --suffix .jpg,.png
  groundling reconcile s3://archive/2024/ --dataset holiday --task brief --enqueue

Give the same source, selection and tasks as to `groundling enqueue`.";

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Dataset. Can be repeated [default: all].
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: Vec<String>,
    /// Refresh the display until Ctrl-C.
    #[arg(long)]
    pub(crate) watch: bool,
    /// With --watch: seconds between refreshes.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = positive)]
    pub(crate) interval: f64,
    /// What an hour of one worker costs; adds the cost, in the same currency.
    #[arg(long, value_name = "PRICE", value_parser = positive)]
    pub(crate) price_per_hour: Option<f64>,
    /// How the status is written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FailuresCommand {
    /// Print a line for each failure: sequence, time, dataset, reason, picture and message.
    List(ListArgs),
    /// Print everything that is known about failures.
    Show(ShowArgs),
    /// Publish the jobs of failures again, each exactly once, and remove the failures.
    Replay(ChangeArgs),
    /// Remove failures.
    Drop(ChangeArgs),
}

/// Which failures.
#[derive(Debug, Clone, Args)]
pub(crate) struct FailureFilterArgs {
    /// Only failures of this dataset.
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: Option<String>,
    /// Only failures with this reason, such as object_not_found.
    #[arg(long, value_name = "REASON", value_parser = reason)]
    pub(crate) reason: Option<FailureReason>,
    /// Only failures that were stored at this time or later, such as 2026-11-29 or 2026-11-29T08:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = archive::source::row::time)]
    pub(crate) since: Option<OffsetDateTime>,
    /// At most this many, the oldest first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) filter: FailureFilterArgs,
    /// How failures are written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Sequences of the failures, as `groundling failures list` prints them.
    #[arg(required = true, value_name = "SEQUENCE")]
    pub(crate) sequences: Vec<u64>,
    /// How failures are written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// Sequences of the failures, as `groundling failures list` prints them.
    #[arg(value_name = "SEQUENCE", conflicts_with_all = ["dataset", "reason", "since", "limit", "all"])]
    pub(crate) sequences: Vec<u64>,
    #[command(flatten)]
    pub(crate) filter: FailureFilterArgs,
    /// The failures of all datasets.
    #[arg(long, conflicts_with = "dataset")]
    pub(crate) all: bool,
    /// How the summary is written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReconcileArgs {
    /// Where the pictures are, as for `groundling enqueue`.
    #[arg(required = true, value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// Dataset.
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: String,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Bucket of rows in files of keys that name none.
    #[arg(long, value_name = "BUCKET")]
    pub(crate) bucket: Option<String>,
    /// Submit a job for each missing object.
    #[arg(long)]
    pub(crate) enqueue: bool,
    /// With --enqueue: tasks, as for `groundling enqueue`.
    #[arg(long, value_name = "TASK")]
    pub(crate) task: Vec<String>,
    /// With --enqueue: prompts, as for `groundling enqueue`.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Vec<String>,
    #[command(flatten)]
    pub(crate) generation: JobGenerationArgs,
    /// With --enqueue: what must be unchanged when a worker reads the picture, as for `groundling enqueue`.
    #[arg(long, value_enum, default_value_t = Pin::Version)]
    pub(crate) pin: Pin,
    /// With --enqueue: submit urgent jobs, as for `groundling enqueue`.
    #[arg(long)]
    pub(crate) urgent: bool,
    /// With --enqueue: maximum number of waiting jobs of the dataset, retries included. At least 1000.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    pub(crate) max_waiting: u64,
    /// Parts of the source that are read at once.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) lanes: u8,
    /// Not for this command; an error says why.
    #[arg(long, hide = true)]
    pub(crate) missing: bool,
    /// Not for this command; an error says why.
    #[arg(long, hide = true, value_name = "WHAT")]
    pub(crate) unique: Option<String>,
    /// Not for this command; an error says why.
    #[arg(long, hide = true, value_name = "N")]
    pub(crate) sample: Option<String>,
    /// How the missing objects and the summary are written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
}

fn reason(text: &str) -> Result<FailureReason, String> {
    let known = || {
        let reasons = (1..).map_while(|number| FailureReason::try_from(number).ok());
        reasons.map(FailureReason::token).collect::<Vec<_>>().join(", ")
    };
    // As messages have it: FAILURE_REASON_OBJECT_NOT_FOUND.
    let token = text.to_ascii_lowercase();
    let token = token.strip_prefix("failure_reason_").unwrap_or(&token);
    FailureReason::from_token(token).ok_or_else(|| format!("expected one of {}", known()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_given_by_its_token() {
        for text in ["object_not_found", "OBJECT_NOT_FOUND", "FAILURE_REASON_OBJECT_NOT_FOUND"] {
            assert_eq!(reason(text), Ok(FailureReason::ObjectNotFound));
        }
        let error = reason("lost").unwrap_err();
        assert!(error.starts_with("expected one of invalid_job, ") && error.ends_with("object_archived"), "{error}");
    }
}
