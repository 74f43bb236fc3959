//! The command line. The doc comments are the help texts.
#![allow(rustdoc::invalid_html_tags, reason = "the comments are help texts, in which tags are the model's markup")]

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use kosmos2::options::EarlyStopping;
use kosmos2::processor::image::DecodeOptions;

use crate::enqueue_args::{DatasetsArgs, ENQUEUE_EXAMPLES, EnqueueArgs};
use crate::export_args::{EXPORT_EXAMPLES, ExportArgs};

/// Annotate pictures with grounded text (KOSMOS-2), from the command line or as a queue worker (NATS, S3).
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 110,
    after_help = "Exit codes: 0 success, 1 failure of all or part of the work, 2 invalid arguments or settings."
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

#[derive(Debug, Clone, Copy, ValueEnum)]
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
    /// Existing streams and consumers are never changed.
    Setup(SetupArgs),
    /// Submit an archive: one job for each picture, exactly once, even if the command is killed and run again.
    #[command(after_help = ENQUEUE_EXAMPLES)]
    Enqueue(EnqueueArgs),
    /// List, pause, resume or cancel the datasets that `groundling enqueue` submits.
    Datasets(DatasetsArgs),
    /// Write the annotations of a dataset as files for other tools.
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(ExportArgs),
    /// Annotate pictures from the command line, without a queue.
    #[command(after_help = ANNOTATE_EXAMPLES)]
    Annotate(AnnotateArgs),
    /// Run the whole pipeline on this machine: a NATS server, an S3 store, a worker and 48 pictures.
    Demo(DemoArgs),
    /// Measure the model's throughput and the time of each stage on this machine.
    Bench(BenchArgs),
    /// Show the model's inputs, or parse its raw output, without weights.
    #[command(subcommand)]
    Inspect(Inspect),
    /// Print the settings and their defaults, as a settings file, a JSON schema or Markdown.
    Settings(SettingsArgs),
}

/// The heading of the options that all commands have.
const GLOBAL: &str = "Global options";

const ANNOTATE_EXAMPLES: &str = "\
Examples:
  groundling annotate --model kosmos-2 photo.jpg
  groundling annotate --model kosmos-2 --task detailed --task 'ground=a red car' --draw boxes pictures/
  groundling annotate --model kosmos-2 --prompt '<grounding> Question: Who is here? Answer:' --format json photo.jpg
  groundling annotate --model kosmos-2 --prompt '<grounding><phrase> It</phrase> is' --boxes '[[[0.1,0.2,0.5,0.9]]]' photo.jpg
  groundling annotate s3://bucket/key.jpg https://host/picture.png - < photo.webp";

/// The model and its device.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// Model directory: a local Hugging Face checkpoint.
    #[arg(long, value_name = "DIR", env = "GROUNDLING_MODEL", value_parser = path())]
    pub(crate) model: Option<PathBuf>,
    /// Device to compute on: auto, cpu, cuda or cuda:N [default: auto].
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Weight format: f32, bf16, int8 or w8a8 on the CPU; bf16, f16, f32, bf16-kv8 or f16-kv8 on CUDA; or fastest
    /// [default: f32 on the CPU, bf16 on CUDA].
    #[arg(long)]
    pub(crate) dtype: Option<String>,
    /// Maximum number of sequences decoded together
    /// [default: as many as fit the memory, up to 16 on the CPU and 1024 on CUDA].
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<usize>,
}

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
    /// Change the jobs stream of an earlier version, and its consumer, for this version. Prints the changes first.
    #[arg(long)]
    pub(crate) migrate: bool,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
}

/// The servers.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// NATS server [default: nats://127.0.0.1:4222].
    #[arg(long, value_name = "URL")]
    pub(crate) nats_url: Option<String>,
    /// S3 endpoint [default: AWS].
    #[arg(long, value_name = "URL")]
    pub(crate) s3_endpoint: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AnnotateArgs {
    /// Pictures: files, directories (searched recursively), s3://bucket/key, http(s):// URLs, or - for stdin.
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
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
    /// Format of the results on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// Write each picture with its boxes drawn into this directory, as PNG.
    #[arg(long, value_name = "DIR")]
    pub(crate) draw: Option<PathBuf>,
    /// Print the raw text with its markup, without parsing phrases and boxes.
    #[arg(long)]
    pub(crate) no_cleanup: bool,
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
    #[command(flatten)]
    pub(crate) generation: GenerationArgs,
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

fn early_stopping() -> impl TypedValueParser<Value = EarlyStopping> {
    let help = |value| match value {
        EarlyStopping::Yes => "As soon as there are as many finished texts as beams",
        EarlyStopping::No => {
            "When the best unfinished text, at its current length, ranks no higher than the worst finished one"
        }
        EarlyStopping::Never => "When the best unfinished text would rank no higher even at the most favourable length",
    };
    let values = EarlyStopping::NAMES.map(|(name, value)| PossibleValue::new(name).help(help(value)));
    PossibleValuesParser::new(values).try_map(|name| name.parse::<EarlyStopping>())
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
    /// Model directory: a local Hugging Face checkpoint. Only its configuration and weights are read.
    #[arg(long, value_name = "DIR", env = "GROUNDLING_MODEL", value_parser = path())]
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

fn lengths(text: &str) -> Result<(usize, usize), String> {
    let bounds = text.split_once('-').and_then(|(min, max)| Some((min.parse().ok()?, max.parse().ok()?)));
    bounds.filter(|&(min, max)| 1 <= min && min <= max).ok_or_else(|| "expected a range such as 8-128".into())
}

/// A path that may be empty, which counts as unset: deployment templates write `VARIABLE=` for a missing value.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected an integer of at least 1".into()),
        Ok(number) => Ok(number),
    }
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
    /// Model directory: a local Hugging Face checkpoint. Only its tokenizer and configuration are read.
    #[arg(long, value_name = "DIR", env = "GROUNDLING_MODEL", value_parser = path())]
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
    /// Model directory: a local Hugging Face checkpoint. Only its image processor's configuration is read.
    #[arg(long, value_name = "DIR", env = "GROUNDLING_MODEL", value_parser = path())]
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
