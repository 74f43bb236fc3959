//! The command line. The doc comments are the help texts.
#![allow(rustdoc::invalid_html_tags, reason = "the comments are help texts, in which tags are the model's markup")]

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::annotate_args::{ANNOTATE_EXAMPLES, AnnotateArgs};
use crate::arg_values::{at_least_one, endpoint, lengths, path};
use crate::bulk_args::{FAILURES_EXAMPLES, FailuresCommand, RECONCILE_EXAMPLES, ReconcileArgs, StatusArgs};
use crate::enqueue_args::{DatasetsArgs, ENQUEUE_EXAMPLES, EnqueueArgs};
use crate::export_args::{EXPORT_EXAMPLES, ExportArgs};
use crate::index_args::{INDEX_EXAMPLES, IndexArgs};
use crate::model_args::ModelArgs;
use crate::review_args::{DIFF_EXAMPLES, DiffArgs, REVIEW_EXAMPLES, ReviewArgs};

/// Annotate pictures with grounded text (KOSMOS-2), from the command line or as a queue worker (NATS, S3).
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 110,
    after_help = "Exit codes: 0 success, 1 failure of all or part of the work, 2 invalid arguments or settings, 70 a worker whose engine is stalled."
)]
pub(crate) struct Arguments {
    /// Settings file [default: ./groundling.toml if it exists].
    ///
    /// Environment variables such as GROUNDLING__NATS__URL override the file; flags override both.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE", env = "GROUNDLING_SETTINGS", value_parser = path())]
    pub(crate) settings: Option<PathBuf>,
    /// Format of log lines on stderr; filter them with RUST_LOG.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Human-readable.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Human-readable.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take jobs from the queue, annotate their pictures and publish the annotations.
    ///
    /// SIGTERM or Ctrl-C finishes the active jobs before exiting. The worker does not create streams: run `groundling setup`
    /// once before.
    Worker(WorkerArgs),
    /// Create the streams and consumers that are missing, and compare existing ones with the settings.
    ///
    /// Without --migrate, existing streams and consumers are not changed. The events stream is created if an `[[ingest]]` rule has a subject.
    Setup(SetupArgs),
    /// Submit an archive: one job for each selected object, exactly once, even if the command is killed and run again.
    #[command(after_help = ENQUEUE_EXAMPLES)]
    Enqueue(EnqueueArgs),
    /// Turn the events of object stores into jobs, by the `[[ingest]]` rules of the settings.
    ///
    /// Takes events from NATS, and from stores that post them to its webhook server. An event is acknowledged when its jobs
    /// are stored. SIGTERM or Ctrl-C finishes the events in progress before exiting.
    Ingest(IngestArgs),
    /// List, pause, resume or cancel the datasets that `groundling enqueue` submits.
    Datasets(DatasetsArgs),
    /// Show each dataset: source, jobs, results, failures by reason, rates, time left and cost.
    Status(StatusArgs),
    /// List, show, replay and drop failures, the jobs that ended without an annotation.
    #[command(subcommand, after_help = FAILURES_EXAMPLES)]
    Failures(FailuresCommand),
    /// Compare an archive with a dataset: each object is done, failed, waiting or missing.
    #[command(after_help = RECONCILE_EXAMPLES)]
    Reconcile(ReconcileArgs),
    /// Write the annotations of a dataset as files for other tools.
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(ExportArgs),
    /// Keep a searchable database of annotations, in PostgreSQL or SQLite.
    #[command(after_help = INDEX_EXAMPLES)]
    Index(IndexArgs),
    /// Write a page of a sample of annotations, to look through and to mark boxes right or wrong; or print the precision of
    /// the marked boxes.
    #[command(after_help = REVIEW_EXAMPLES)]
    Review(ReviewArgs),
    /// Compare the annotations of the same pictures in two datasets, such as those of two prompts or models.
    #[command(after_help = DIFF_EXAMPLES)]
    Diff(DiffArgs),
    /// Annotate pictures from the command line, without a queue.
    #[command(after_help = ANNOTATE_EXAMPLES)]
    Annotate(Box<AnnotateArgs>),
    /// Run the whole pipeline on this machine: a NATS server, an S3 store, a worker and 48 pictures.
    Demo(DemoArgs),
    /// Measure the model's throughput and the time of each stage on this machine.
    Bench(BenchArgs),
    /// Show the model's inputs, or parse its raw output, without weights.
    #[command(subcommand)]
    Inspect(Inspect),
    /// Report every problem of a settings file, with its line, its column and the fix.
    ///
    /// Environment variables such as GROUNDLING__NATS__URL override the file, as for a worker. Exit code 1: there are
    /// problems.
    Check(CheckArgs),
    /// Check everything that a worker needs, and change nothing: servers, streams, permissions, buckets, model, collector.
    ///
    /// Exit code 1: there are problems.
    DryRun(DryRunArgs),
    /// Tell KEDA how long one worker would take for the backlog, so that it runs as many as drain it in time.
    ///
    /// An external-push scaler (gRPC) with the metric drain_seconds: jobs that have not ended, divided by the jobs per second
    /// of a worker. The trigger's metadata has targetDrainSeconds and jobsPerSecond, which is used until the rate is
    /// measured. Needs no GPU and no model.
    Scaler(ScalerArgs),
    /// Print the settings and their defaults, as a settings file, a JSON schema or Markdown.
    Settings(SettingsArgs),
}

/// The heading of the options that all commands have.
const GLOBAL: &str = "Global options";

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
    /// Maximum concurrent jobs [default: 8 on the CPU, about 1300 on CUDA].
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// NATS server [default: nats://127.0.0.1:4222].
    #[arg(long, value_name = "URL")]
    pub(crate) nats_url: Option<String>,
    /// Change streams of an earlier version for this one: the jobs stream and its consumer, the subjects of the failed
    /// stream, the compression of the annotations, and the retries stream, which must be empty; and the subjects of the
    /// events stream for the `[[ingest]]` rules. Prints the changes first.
    #[arg(long)]
    pub(crate) migrate: bool,
    /// Create and change nothing: report what is missing and what differs from the settings, with the exit code 1.
    #[arg(long, conflicts_with = "migrate")]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScalerArgs {
    /// Address for KEDA and for probes (gRPC, without TLS).
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:50051")]
    pub(crate) listen: SocketAddr,
    /// NATS server [default: nats://127.0.0.1:4222].
    #[arg(long, value_name = "URL")]
    pub(crate) nats_url: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct IngestArgs {
    /// NATS server [default: nats://127.0.0.1:4222].
    #[arg(long, value_name = "URL")]
    pub(crate) nats_url: Option<String>,
}

/// The servers.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// NATS server [default: nats://127.0.0.1:4222].
    #[arg(long, value_name = "URL")]
    pub(crate) nats_url: Option<String>,
    /// S3 endpoint [default: AWS].
    #[arg(long, value_name = "URL", value_parser = endpoint)]
    pub(crate) s3_endpoint: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Directory for the pictures with boxes and the HTML page.
    #[arg(long, value_name = "DIR", default_value = "demo-output")]
    pub(crate) out: PathBuf,
    /// Format of the annotations on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Model: a directory, `hf://OWNER/NAME[@REVISION]` or s3://BUCKET/PREFIX. Only its configuration and weights are read.
    #[arg(long, value_name = "MODEL", env = "GROUNDLING_MODEL", value_parser = path())]
    pub(crate) model: Option<PathBuf>,
    /// Use random weights instead of a model, for this config.json or the one in this directory.
    #[arg(long, value_name = "CONFIG")]
    pub(crate) random: Option<PathBuf>,
    /// Batch size: pictures processed together, each with one prompt. Several sizes can be separated by commas.
    #[arg(long, value_name = "B", value_delimiter = ',', default_value = "1", value_parser = at_least_one)]
    pub(crate) batch: Vec<usize>,
    /// Number of tokens generated for each picture.
    #[arg(long, value_name = "K", default_value = "64", value_parser = at_least_one)]
    pub(crate) new_tokens: usize,
    /// Measure continuous batching, with MIN to MAX tokens generated for each picture.
    ///
    /// The next picture starts as soon as one is finished, so that --batch pictures are decoded at a time. The lengths
    /// are uniformly distributed, and the same in every run.
    #[arg(long, value_name = "MIN-MAX", value_parser = lengths)]
    pub(crate) lengths: Option<(usize, usize)>,
    /// Measure a whole worker on these pictures, and its engine alone. Requires --model.
    ///
    /// Starts a NATS server and an S3 store on this machine. The pictures are repeated as often as needed, and --batch of
    /// them are decoded at a time.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "model", conflicts_with_all = ["random", "lengths"])]
    pub(crate) through_worker: Vec<PathBuf>,
    /// Also measure the worker while it exports metrics and a trace of every job to a collector on this machine.
    #[arg(long, requires = "through_worker")]
    pub(crate) with_telemetry: bool,
    /// Pictures per run, with --lengths or --through-worker [default: 4 times --batch].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) pictures: Option<usize>,
    /// Weight format: f32, bf16, int8 or w8a8 on the CPU; bf16, f16, f32, bf16-kv8 or f16-kv8 on CUDA; or fastest
    /// [default: f32 on the CPU, bf16 on CUDA].
    #[arg(long)]
    pub(crate) dtype: Option<String>,
    /// Device to compute on: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// Measured runs; the results are their medians.
    #[arg(long, value_name = "R", default_value = "3", value_parser = at_least_one)]
    pub(crate) repeat: usize,
    /// Unmeasured runs before the measured ones.
    #[arg(long, value_name = "W", default_value_t = 1)]
    pub(crate) warmup: usize,
    /// Price of this machine per hour; adds the cost of 1000 pictures, in the same currency.
    #[arg(long, value_name = "PRICE")]
    pub(crate) price_per_hour: Option<f64>,
    /// Format of the results: a table, or one JSON object per batch size.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Inspect {
    /// Print a prompt as token ids and masks, in JSON.
    Prompt(InspectPrompt),
    /// Write the pixel values of a picture, f32 [1, 3, 224, 224], to a safetensors file.
    Image(InspectImage),
    /// Parse raw model output from stdin, one text per line, and print text and entities as JSON lines.
    Text(InspectText),
}

#[derive(Debug, Args)]
pub(crate) struct InspectPrompt {
    /// Model: a directory, `hf://OWNER/NAME[@REVISION]` or s3://BUCKET/PREFIX. Only its tokenizer and configuration are read.
    #[arg(long, value_name = "MODEL", env = "GROUNDLING_MODEL", value_parser = path())]
    pub(crate) model: Option<PathBuf>,
    /// Prompt in the model's markup.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: String,
    /// Boxes of the phrases, as JSON.
    ///
    /// A list with one entry per <phrase>: null or a list of boxes. A box is two patch indices or four fractions.
    #[arg(long, value_name = "JSON")]
    pub(crate) boxes: Option<String>,
    /// Omit the image tokens.
    #[arg(long)]
    pub(crate) no_image: bool,
    /// Append </s>.
    #[arg(long)]
    pub(crate) add_eos: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectImage {
    /// Model: a directory, `hf://OWNER/NAME[@REVISION]` or s3://BUCKET/PREFIX. Only its image processor's configuration is read.
    #[arg(long, value_name = "MODEL", env = "GROUNDLING_MODEL", value_parser = path())]
    pub(crate) model: Option<PathBuf>,
    /// Picture file.
    pub(crate) file: PathBuf,
    /// Output file, with one tensor `pixel_values`.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Do not rotate the picture according to EXIF or XMP.
    #[arg(long)]
    pub(crate) no_exif_orientation: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectText {
    /// Keep the markup and parse no entities, like cleanup_and_extract=False in transformers.
    #[arg(long)]
    pub(crate) raw: bool,
    /// Ignored; accepted so that all `inspect` commands take the same options.
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) model: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Settings file [default: that of --settings, or ./groundling.toml].
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Format of the problems on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct DryRunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
    /// Number of workers that will run, to check the limits that they share.
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one)]
    pub(crate) workers: usize,
    /// Object to read, s3://bucket/key. Without it, reading is tried with a key that does not exist.
    #[arg(long, value_name = "URL")]
    pub(crate) object: Option<String>,
    /// Format of the results on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SettingsArgs {
    /// Print the JSON schema of the settings file.
    #[arg(long)]
    pub(crate) schema: bool,
    /// Print a settings file in TOML with every key at its default.
    #[arg(long)]
    pub(crate) defaults: bool,
    /// Print the reference of all settings in Markdown.
    #[arg(long)]
    pub(crate) markdown: bool,
}
