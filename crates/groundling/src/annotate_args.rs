//! The options of `groundling annotate`. The doc comments are the help texts.
#![allow(rustdoc::invalid_html_tags, reason = "the comments are help texts, in which tags are the model's markup")]

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kosmos2::options::EarlyStopping;
use kosmos2::processor::image::DecodeOptions;

use crate::arg_values::{early_stopping, endpoint, path};
use crate::model_args::ModelArgs;

pub(crate) const ANNOTATE_EXAMPLES: &str = "\
Examples:
  groundling annotate --model kosmos-2 photo.jpg
  groundling annotate --model kosmos-2 --out results.jsonl pictures/
  groundling annotate --model kosmos-2 --out results.jsonl --resume pictures/
  groundling annotate --model kosmos-2 --page review.html --draw boxes 'pictures/**/*.jpg'
  groundling annotate --model kosmos-2 --task detailed --task 'ground=a red car' --format json pictures/
  groundling annotate --model kosmos-2 --prompt '<grounding> Question: Who is here? Answer:' photo.jpg
  groundling annotate --model kosmos-2 --prompt '<grounding><phrase> It</phrase> is' --boxes '[[[0.1,0.2,0.5,0.9]]]' photo.jpg
  groundling annotate --model kosmos-2 s3://bucket/2024/ s3://bucket/key.jpg https://host/picture.png - < photo.webp
  find . -name '*.jpg' -size -5M -print0 | groundling annotate --model kosmos-2 --files-from -

S3 credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the AWS profile or the machine's role, or from
GROUNDLING__S3__ACCESS_KEY and GROUNDLING__S3__SECRET_KEY. Stores without a host name for each bucket also need
GROUNDLING__S3__PATH_STYLE=true.

A file whose name begins with a dash is written ./-name.jpg, or after --.

Ctrl-C finishes the pictures that were started, for at most GROUNDLING__WORKER__SHUTDOWN_TIMEOUT (5m); a second one exits
at once.

Exit codes: 0 success, 1 failure of all or part of the work, or an argument or list without pictures, 2 invalid arguments
or settings, 130 or 143 interrupted by Ctrl-C or SIGTERM.";

/// The formats of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AnnotateFormat {
    /// Human-readable.
    Text,
    /// One JSON object per line for each picture: the annotation or failure as workers publish it (docs/protocol.md).
    #[value(alias = "jsonl")]
    Json,
    /// One JSON object per line for each picture and prompt, with the earlier keys. Failures are only on stderr.
    #[value(name = "json-v0")]
    JsonV0,
}

#[derive(Debug, Args)]
pub(crate) struct AnnotateArgs {
    /// Pictures: files, directories (searched recursively), s3://bucket/key, s3://bucket/prefix/, patterns such as
    /// 'a/**/*.jpg' and 's3://bucket/*.jpg', http(s):// URLs, or - for stdin. Each path is annotated once.
    #[arg(required_unless_present = "files_from", value_name = "IMAGE")]
    pub(crate) images: Vec<OsString>,
    /// Also annotate what this file lists: one IMAGE per line, or separated by NUL, in UTF-8; - for stdin.
    #[arg(long, value_name = "FILE")]
    pub(crate) files_from: Option<PathBuf>,
    /// Search directories that symbolic links lead to.
    #[arg(long)]
    pub(crate) follow_links: bool,
    /// S3 endpoint, such as http://127.0.0.1:8333 [default: s3.endpoint of the settings, or AWS].
    #[arg(long, value_name = "URL", value_parser = endpoint)]
    pub(crate) s3_endpoint: Option<String>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Prompt in the model's markup, such as '<grounding> An image of'. Can be repeated.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Vec<String>,
    /// Boxes of the phrases in --prompt, as JSON.
    ///
    /// A list with one entry per <phrase>: null or a list of boxes. A box is two patch indices or four fractions.
    /// Requires exactly one --prompt.
    #[arg(long, value_name = "JSON")]
    pub(crate) boxes: Option<String>,
    /// Task: brief, detailed, question=TEXT, ground=PHRASE, find=EXPRESSION or describe=BOX [default: brief, if there is
    /// no --prompt].
    ///
    /// BOX is x0,y0,x1,y1 as fractions of the picture, or two patch indices. Can be repeated.
    #[arg(long, value_name = "TASK")]
    pub(crate) task: Vec<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) generation: GenerationArgs,
}

/// Where results go, and which.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Format of the results [default: text on stdout, json with --out].
    #[arg(long, value_enum)]
    pub(crate) format: Option<AnnotateFormat>,
    /// Write the results to this file (ending in .jsonl or .json) or into this directory instead of stdout, as JSON.
    ///
    /// Rows are in the order of the pictures: a row is written once its picture and all before it have ended. A directory
    /// gets files of --shard-rows rows; a file is named part-NNNNN.jsonl once it is complete. End the name of a directory
    /// with / if it looks like that of a file.
    #[arg(long, value_name = "FILE|DIR", value_parser = path())]
    pub(crate) out: Option<PathBuf>,
    /// Continue an earlier run: skip the pictures that --out has already, with the same content and the same tasks, options
    /// and model. Pictures that failed are tried again.
    #[arg(long, requires = "out")]
    pub(crate) resume: bool,
    /// Number of rows in a file, if --out is a directory.
    #[arg(long, value_name = "N", requires = "out", default_value = "10000")]
    pub(crate) shard_rows: NonZeroUsize,
    /// Write an HTML page with the pictures, boxes and texts.
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub(crate) page: Option<PathBuf>,
    /// Write each picture with its boxes drawn into a new directory run-N in this directory, as PNG.
    #[arg(long, value_name = "DIR")]
    pub(crate) draw: Option<PathBuf>,
    /// Write the drawings into the directory of --draw itself, replacing those of earlier runs.
    #[arg(long, requires = "draw")]
    pub(crate) replace_drawings: bool,
    /// Leave out phrases and boxes with a score below this, from 0 to 1. Those without a score are kept.
    #[arg(long, value_name = "SCORE", value_parser = score)]
    pub(crate) min_score: Option<f32>,
    /// Leave out phrases that match no line of this file.
    ///
    /// A line is compared with a whole phrase, in lower case; * stands for any characters, ? for one. For example:
    /// '* dog' matches 'a dog', '*dog*' also 'two dogs'.
    #[arg(long, value_name = "FILE")]
    pub(crate) phrases: Option<PathBuf>,
    /// Print the raw text with its markup, without parsing phrases and boxes.
    #[arg(long)]
    pub(crate) no_cleanup: bool,
    /// Seconds between progress lines if stderr is not a terminal; 0 for none.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) progress: u64,
}

fn score(text: &str) -> Result<f32, String> {
    let score = text.parse().ok().filter(|score| (0.0..=1.0).contains(score));
    score.ok_or_else(|| "expected a number from 0 to 1".into())
}

/// Limits of pictures.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Pictures")]
pub(crate) struct LimitArgs {
    /// Do not rotate pictures according to EXIF or XMP.
    #[arg(long)]
    pub(crate) no_exif_orientation: bool,
    /// Maximum size of a picture file, in bytes [default: s3.max_object_bytes of the settings].
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_bytes: Option<u64>,
    /// Maximum size of a decoded picture, in pixels.
    #[arg(long, value_name = "N", default_value_t = DecodeOptions::default().max_pixels)]
    pub(crate) max_pixels: u64,
    /// Maximum width and height of a picture, in pixels.
    #[arg(long, value_name = "N", default_value_t = DecodeOptions::default().max_side)]
    pub(crate) max_side: u32,
    /// Maximum memory for decoding one picture, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = DecodeOptions::default().max_memory)]
    pub(crate) max_decode_bytes: u64,
}

/// Generation options.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Generation")]
pub(crate) struct GenerationArgs {
    /// Maximum number of tokens of an answer.
    #[arg(long, allow_negative_numbers = true, default_value_t = 256, value_name = "N")]
    pub(crate) max_new_tokens: usize,
    /// Sample at this temperature [default: greedy decoding].
    #[arg(long, allow_negative_numbers = true, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Sample from the K most probable tokens.
    #[arg(long, allow_negative_numbers = true, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Sample from the smallest set of tokens whose total probability is at least P (nucleus sampling).
    #[arg(long, allow_negative_numbers = true, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Random seed for sampling.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0, value_name = "N")]
    pub(crate) seed: u64,
    /// Never generate the same sequence of N tokens twice; 0 for no restriction.
    ///
    /// transformers 4 used 3 for the published checkpoint.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0, value_name = "N")]
    pub(crate) no_repeat_ngram_size: usize,
    /// Penalize repeated tokens; 1 for no penalty.
    #[arg(long, allow_negative_numbers = true, default_value_t = 1.0, value_name = "X")]
    pub(crate) repetition_penalty: f32,
    /// Beam search with N beams.
    #[arg(long, value_name = "N", conflicts_with_all = ["temperature", "top_k", "top_p"])]
    pub(crate) num_beams: Option<usize>,
    /// Beam search: a text is ranked by its total log-probability divided by its length to the power of X.
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true, requires = "num_beams")]
    pub(crate) length_penalty: f32,
    /// Beam search: when to stop, as early_stopping in transformers.
    #[arg(long, value_parser = early_stopping(), default_value_t = EarlyStopping::default(), requires = "num_beams")]
    pub(crate) early_stopping: EarlyStopping,
    /// Constrain the output to well-formed markup.
    ///
    /// Tags are closed, and patch tokens come in pairs and in order, even if --max-new-tokens cuts the text.
    #[arg(long)]
    pub(crate) well_formed: bool,
}
