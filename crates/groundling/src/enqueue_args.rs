//! What `groundling enqueue` takes. The comments are the program's own help.
#![allow(rustdoc::invalid_html_tags, reason = "the comments are shown as help, where tags are markup of prompts")]

use clap::{Args, ValueEnum};

use crate::args::{Format, StoreArgs};

pub(crate) const ENQUEUE_EXAMPLES: &str = "\
Examples:
  groundling enqueue s3://archive/2024/ --dataset holiday --suffix .jpg,.png --dry-run
  groundling enqueue s3://archive/2024/ --dataset holiday --task brief --task 'ground=a red car'
  groundling enqueue s3://lists/archive/daily/2026-11-29T00-00Z/manifest.json --dataset all-of-it --glob '**/*.jpg'
  groundling enqueue keys.csv --bucket archive --dataset chosen --sample 1000 --seed 7

A run that was stopped, or killed, goes on where it was when the same command is given again.";

#[derive(Debug, Args)]
pub(crate) struct EnqueueArgs {
    /// Where the pictures are: s3://bucket/prefix, the manifest.json of an S3 Inventory, or a file of keys (.csv, .jsonl,
    /// both also with .gz, or .parquet); files are local or in S3.
    #[arg(required = true, value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// Dataset: one pass over the pictures with these tasks and options.
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: String,
    /// brief | detailed | question=TEXT | ground=PHRASE | find=EXPRESSION | describe=BOX, where a BOX is x0,y0,x1,y1 in
    /// fractions or two patch indices. Can be given several times. Without task and prompt: brief.
    #[arg(long, value_name = "TASK")]
    pub(crate) task: Vec<String>,
    /// Prompt as the model takes it, such as '<grounding> An image of'. Can be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Vec<String>,
    #[command(flatten)]
    pub(crate) generation: JobGenerationArgs,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
    /// Bucket of rows in files of keys that name none.
    #[arg(long, value_name = "BUCKET")]
    pub(crate) bucket: Option<String>,
    /// What a picture must still have when it is read: its ETag, and its version where the source knows it; its ETag; or
    /// nothing. A picture that changed becomes a failure.
    #[arg(long, value_enum, default_value_t = Pin::Version)]
    pub(crate) pin: Pin,
    /// Most jobs of the dataset that wait in the stream; the source is read as workers take them. At least 1000.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    pub(crate) max_waiting: u64,
    /// Parts of the source that are read at once.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) lanes: u8,
    /// Read the source, store nothing, and tell how many jobs there would be, with which prompts.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// With --dry-run: pictures per second of the pool; adds the time it will take.
    #[arg(long, value_name = "RATE", requires = "dry_run", value_parser = positive)]
    pub(crate) images_per_second: Option<f64>,
    /// With --images-per-second: what an hour of the pool costs; adds the cost, in the same currency.
    #[arg(long, value_name = "PRICE", requires = "images_per_second", value_parser = positive)]
    pub(crate) price_per_hour: Option<f64>,
    /// How the summary is written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// Which objects become jobs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Selection")]
pub(crate) struct FilterArgs {
    /// Endings of keys, such as .jpg,.png, whatever their case. Without it keys with any ending become jobs.
    #[arg(long, value_name = "ENDING", value_delimiter = ',')]
    pub(crate) suffix: Vec<String>,
    /// Pattern of whole keys: * within a part of the path, ** across parts, ? and [a-z].
    #[arg(long, value_name = "PATTERN")]
    pub(crate) glob: Option<String>,
    /// Smallest size in bytes.
    #[arg(long, value_name = "BYTES")]
    pub(crate) min_size: Option<u64>,
    /// Greatest size in bytes.
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_size: Option<u64>,
    /// Changed at this time or later, such as 2026-11-29 or 2026-11-29T08:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = archive::source::row::seconds)]
    pub(crate) modified_after: Option<i64>,
    /// Changed before this time.
    #[arg(long, value_name = "TIME", value_parser = archive::source::row::seconds)]
    pub(crate) modified_before: Option<i64>,
    /// Of objects with the same ETag, take one. Keeps 16 bytes and more of each in memory.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) unique: Option<Unique>,
    /// Take this many objects by chance, from all of the source. Reads the source once more.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) sample: Option<u64>,
}

/// How text is generated; what is left out has the default of the job format.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Generation")]
pub(crate) struct JobGenerationArgs {
    /// Maximum tokens for each answer [default: 256]
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<u32>,
    /// Sample tokens at this temperature, instead of taking the best one.
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Sample from the K best tokens only.
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Sample from the fewest best tokens that together reach this probability.
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Random seed, of --temperature and of --sample [default: 0]
    #[arg(long, value_name = "SEED")]
    pub(crate) seed: Option<u64>,
    /// Never repeat a sequence of N tokens.
    #[arg(long, value_name = "N")]
    pub(crate) no_repeat_ngram_size: Option<u32>,
    /// Penalize repeated tokens; 1 does nothing.
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

pub(crate) fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}
