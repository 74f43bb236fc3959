//! The arguments of `groundling enqueue` and `groundling datasets`. The doc comments are the help texts.
#![allow(rustdoc::invalid_html_tags, reason = "the comments are help texts, in which tags are the model's markup")]

use clap::{Args, Subcommand, ValueEnum};

use crate::args::{Format, StoreArgs};

pub(crate) const ENQUEUE_EXAMPLES: &str = "\
Examples:
  groundling enqueue s3://archive/2024/ --dataset holiday --suffix .jpg,.png --dry-run
  groundling enqueue s3://archive/2024/ --dataset holiday --task brief --task 'ground=a red car'
  groundling enqueue s3://lists/archive/daily/2026-11-29T00-00Z/manifest.json --dataset everything --glob '**/*.jpg'
  groundling enqueue keys.csv --bucket archive --dataset chosen --sample 1000 --seed 7

If the command is stopped or killed, run it again with the same arguments: it continues where it stopped.";

#[derive(Debug, Args)]
pub(crate) struct EnqueueArgs {
    /// Sources of pictures: s3://bucket/prefix, the manifest.json of an S3 Inventory, or a file of keys (.csv, .jsonl,
    /// both also with .gz, or .parquet). Files are local or in S3.
    #[arg(required = true, value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// Dataset: one pass over the pictures with these tasks and options.
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: String,
    /// Task: brief, detailed, question=TEXT, ground=PHRASE, find=EXPRESSION or describe=BOX [default: brief, if there is
    /// no --prompt].
    ///
    /// BOX is x0,y0,x1,y1 as fractions of the picture, or two patch indices. Can be repeated.
    #[arg(long, value_name = "TASK")]
    pub(crate) task: Vec<String>,
    /// Prompt in the model's markup, such as '<grounding> An image of'. Can be repeated.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Vec<String>,
    #[command(flatten)]
    pub(crate) generation: JobGenerationArgs,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) pass: PassArgs,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
    /// Bucket of rows without a bucket in files of keys.
    #[arg(long, value_name = "BUCKET")]
    pub(crate) bucket: Option<String>,
    /// What must be unchanged when a worker reads the picture.
    ///
    /// version: its ETag, and its version if the source contains it. etag: its ETag. none: nothing. A picture that has
    /// changed becomes a failure.
    #[arg(long, value_enum, default_value_t = Pin::Version, hide_possible_values = true)]
    pub(crate) pin: Pin,
    /// Submit the jobs as urgent: workers take them before all others.
    #[arg(long)]
    pub(crate) urgent: bool,
    /// Maximum number of waiting jobs of the dataset, retries included. More are stored as workers take them.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    pub(crate) max_waiting: u64,
    /// Pause the dataset if more than this share of its jobs fail, such as 5%.
    ///
    /// Counts jobs that finish while this command runs, from 100 on. It has an effect only until all jobs are stored: use a
    /// small --max-waiting.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) max_failure_rate: Option<f64>,
    /// Number of parts of the source that are read in parallel.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) lanes: u8,
    /// Store nothing. Print the number of jobs, their prompts, and the estimated time and cost.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// With --dry-run: pictures per second of the pool [default: the rate of its last 1000 annotations].
    #[arg(long, value_name = "RATE", requires = "dry_run", value_parser = positive)]
    pub(crate) images_per_second: Option<f64>,
    /// With --dry-run: number of workers that reach the rate, for the cost [default: those of the last minute].
    #[arg(long, value_name = "N", requires = "dry_run", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) workers: Option<u64>,
    /// With --dry-run: what an hour of one worker costs; adds the cost, in the same currency.
    #[arg(long, value_name = "PRICE", requires = "dry_run", value_parser = positive)]
    pub(crate) price_per_hour: Option<f64>,
    /// Format of the summary on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// The selection of objects.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Selection")]
pub(crate) struct FilterArgs {
    /// Suffixes of keys, such as .jpg,.png, ignoring case [default: any].
    #[arg(long, value_name = "SUFFIX", value_delimiter = ',')]
    pub(crate) suffix: Vec<String>,
    /// Pattern of keys: * within a path component, ** across components, ? and [a-z].
    #[arg(long, value_name = "PATTERN")]
    pub(crate) glob: Option<String>,
    /// Minimum size in bytes.
    #[arg(long, value_name = "BYTES")]
    pub(crate) min_size: Option<u64>,
    /// Maximum size in bytes.
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_size: Option<u64>,
    /// Modified at or after this time, such as 2026-11-29 or 2026-11-29T08:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = archive::source::row::whole_seconds)]
    pub(crate) modified_after: Option<i64>,
    /// Modified before this time.
    #[arg(long, value_name = "TIME", value_parser = archive::source::row::whole_seconds)]
    pub(crate) modified_before: Option<i64>,
}

/// The selection of objects within a pass.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Selection")]
pub(crate) struct PassArgs {
    /// Skip pictures that have an annotation in the dataset.
    ///
    /// If the dataset is complete or was cancelled, this starts another pass over the sources. Takes about 40 bytes of
    /// memory for each annotation.
    #[arg(long)]
    pub(crate) missing: bool,
    /// Take one of the objects with the same ETag. Takes about 40 bytes of memory for each ETag.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) unique: Option<Unique>,
    /// Take a random sample of N objects. Reads the source once more.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) sample: Option<u64>,
}

/// Generation options of the jobs. Workers apply their defaults to those that are not given.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Generation")]
pub(crate) struct JobGenerationArgs {
    /// Maximum number of tokens of an answer [default: 256].
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<u32>,
    /// Sample at this temperature [default: greedy decoding].
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Sample from the K most probable tokens.
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Sample from the smallest set of tokens whose total probability is at least P (nucleus sampling).
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Random seed for --temperature and --sample [default: 0].
    #[arg(long, value_name = "SEED")]
    pub(crate) seed: Option<u64>,
    /// Never generate the same sequence of N tokens twice.
    #[arg(long, value_name = "N")]
    pub(crate) no_repeat_ngram_size: Option<u32>,
    /// Penalize repeated tokens; 1 for no penalty.
    #[arg(long, value_name = "X")]
    pub(crate) repetition_penalty: Option<f32>,
    /// Beam search with N beams.
    #[arg(long, value_name = "N")]
    pub(crate) num_beams: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pin {
    Version,
    Etag,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Unique {
    Etag,
}

#[derive(Debug, Args)]
pub(crate) struct DatasetsArgs {
    #[command(subcommand)]
    pub(crate) action: DatasetsAction,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
    /// Format of the results on stdout.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DatasetsAction {
    /// List all datasets that were enqueued, with their state and counts.
    List,
    /// Pause a dataset: no more jobs are stored. Workers continue with the waiting ones.
    Pause(DatasetArgs),
    /// Resume a paused dataset. `groundling enqueue` continues if it is still running.
    Resume(DatasetArgs),
    /// Cancel a dataset: no more jobs are stored, and waiting jobs and retries are removed. Annotations stay.
    Cancel(DatasetArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DatasetArgs {
    /// The dataset.
    #[arg(value_name = "DATASET")]
    pub(crate) dataset: String,
}

pub(crate) fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

/// A percentage, as a share from 0 to 1.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let share = number.map(|number| number / 100.0).filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a percentage such as 5%".to_owned())
}
