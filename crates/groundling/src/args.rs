//! What the command line takes. The comments are the program's own help.
#![allow(rustdoc::invalid_html_tags, reason = "the comments are shown as help, where tags are markup of prompts")]

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use kosmos2::processor::image::DecodeOptions;

use crate::enqueue_args::{ENQUEUE_EXAMPLES, EnqueueArgs};

/// Annotates pictures with text whose phrases are tied to boxes (KOSMOS-2): by hand, or as a worker of a NATS JetStream queue over S3.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 110,
    after_help = "Exit codes: 0 all done, 1 something failed, 2 wrong arguments or settings."
)]
pub(crate) struct Arguments {
    /// Settings file; without it ./groundling.toml, if there is one. Environment variables such as
    /// GROUNDLING__NATS__URL override the file; flags override both.
    #[arg(long, global = true, value_name = "FILE", env = "GROUNDLING_SETTINGS", value_parser = path())]
    pub(crate) settings: Option<PathBuf>,
    /// Format of the log lines on stderr. Filter them with RUST_LOG.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Work on the queue: take jobs, fetch pictures from S3, annotate them, publish the annotations.
    ///
    /// SIGTERM or Ctrl-C finishes what is in hand. The worker creates no streams: run `groundling setup` once before.
    Worker(WorkerArgs),
    /// Create the streams and the consumer, or check that they are as the settings say.
    Setup(SetupArgs),
    /// Put an archive into the queue: a job for each picture, each exactly once, however often this is killed.
    #[command(after_help = ENQUEUE_EXAMPLES)]
    Enqueue(EnqueueArgs),
    /// Annotate pictures here and now, without a queue.
    #[command(after_help = ANNOTATE_EXAMPLES)]
    Annotate(AnnotateArgs),
    /// Show it all on one machine: a NATS server, an S3 store, 48 pictures through the queue, and a page to look at.
    Demo(DemoArgs),
    /// Measure pictures per second of the model on this machine, by stage, beside what the machine could do at best.
    Bench(BenchArgs),
    /// Show what the model would be fed, and how its raw text is read. Needs no weights.
    #[command(subcommand)]
    Inspect(Inspect),
}

const ANNOTATE_EXAMPLES: &str = "\
Examples:
  groundling annotate --model kosmos-2 photo.jpg
  groundling annotate --model kosmos-2 --task detailed --task 'ground=a red car' --draw boxes pictures/
  groundling annotate --model kosmos-2 --prompt '<grounding> Question: Who is here? Answer:' --format json photo.jpg
  groundling annotate --model kosmos-2 --prompt '<grounding><phrase> It</phrase> is' --boxes '[[[0.1,0.2,0.5,0.9]]]' photo.jpg
  groundling annotate s3://bucket/key.jpg https://host/picture.png - < photo.webp";

/// Which model, and where it computes.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// Model directory as Hugging Face lays it out.
    #[arg(long, value_name = "DIR", env = "GROUNDLING_MODEL", value_parser = path())]
    pub(crate) model: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda or cuda:N.
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// What to compute in: f32, bf16, int8 or w8a8 on the CPU; bf16, f16 or f32 on CUDA; or fastest.
    #[arg(long)]
    pub(crate) dtype: Option<String>,
    /// Prompts decoded at once. Left out: as many as fit the memory, up to 16 on the CPU and 1024 on CUDA.
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
    /// Jobs in hand at once.
    #[arg(long)]
    pub(crate) slots: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// Change the stream of jobs of an earlier version, and its consumer, into what this version needs. The changes are
    /// printed first.
    #[arg(long)]
    pub(crate) migrate: bool,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
}

/// Where jobs and pictures come from.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// NATS server, such as nats://127.0.0.1:4222.
    #[arg(long, value_name = "URL")]
    pub(crate) nats_url: Option<String>,
    /// S3 endpoint; left out: AWS.
    #[arg(long, value_name = "URL")]
    pub(crate) s3_endpoint: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AnnotateArgs {
    /// Pictures: files, directories (searched for pictures), s3://bucket/key, http(s)://… or - for standard input.
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Prompt as the model takes it, such as '<grounding> An image of'. Can be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Vec<String>,
    /// Boxes for the one --prompt: a JSON list with an entry for each <phrase>, null or a list of boxes, a box being
    /// two patch indices or four fractions.
    #[arg(long, value_name = "JSON")]
    pub(crate) boxes: Option<String>,
    /// brief | detailed | question=TEXT | ground=PHRASE | find=EXPRESSION | describe=BOX, where a BOX is x0,y0,x1,y1 in
    /// fractions or two patch indices. Can be given several times. Without task and prompt: brief.
    #[arg(long, value_name = "TASK")]
    pub(crate) task: Vec<String>,
    /// How results are written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// Write each picture with its boxes into this directory, as PNG.
    #[arg(long, value_name = "DIR")]
    pub(crate) draw: Option<PathBuf>,
    /// Print the raw text with its tags, and read no phrases or boxes from it.
    #[arg(long)]
    pub(crate) no_cleanup: bool,
    /// Leave pictures as they are stored, instead of rotating them according to EXIF or XMP.
    #[arg(long)]
    pub(crate) no_exif_orientation: bool,
    /// Largest picture file to read, in bytes [default: s3.max_object_bytes of the settings]
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_bytes: Option<u64>,
    /// Largest picture to decode, in pixels.
    #[arg(long, value_name = "N", default_value_t = DecodeOptions::default().max_pixels)]
    pub(crate) max_pixels: u64,
    /// Longest side of a picture to decode, in pixels.
    #[arg(long, value_name = "N", default_value_t = DecodeOptions::default().max_side)]
    pub(crate) max_side: u32,
    /// Most memory for decoding one picture, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = DecodeOptions::default().max_memory)]
    pub(crate) max_decode_bytes: u64,
    #[command(flatten)]
    pub(crate) generation: GenerationArgs,
}

/// How text is generated.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Generation")]
pub(crate) struct GenerationArgs {
    /// Most tokens for each answer.
    #[arg(long, allow_negative_numbers = true, default_value_t = 256, value_name = "N")]
    pub(crate) max_new_tokens: usize,
    /// Draw tokens at this temperature, instead of taking the best one.
    #[arg(long, allow_negative_numbers = true, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Draw among the K best tokens only.
    #[arg(long, allow_negative_numbers = true, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Draw among the fewest best tokens that together reach this probability.
    #[arg(long, allow_negative_numbers = true, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Seed of the draws.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Never repeat a sequence of N tokens; 0 allows it. transformers 4 used 3 for the published checkpoint.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0, value_name = "N")]
    pub(crate) no_repeat_ngram_size: usize,
    /// Weaken tokens that were there before; 1 does nothing.
    #[arg(long, allow_negative_numbers = true, default_value_t = 1.0, value_name = "X")]
    pub(crate) repetition_penalty: f32,
    /// Follow N texts side by side and answer with the best, instead of taking the best token each time.
    #[arg(long, value_name = "N", conflicts_with_all = ["temperature", "top_k", "top_p"])]
    pub(crate) num_beams: Option<usize>,
    /// With --num-beams: texts are compared by their summed log-probability over their length to this power.
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true, requires = "num_beams")]
    pub(crate) length_penalty: f32,
    /// With --num-beams: when to stop looking for better texts, as transformers means it.
    #[arg(long, value_enum, default_value_t = EarlyStopping::No, requires = "num_beams")]
    pub(crate) early_stopping: EarlyStopping,
    /// Keep the markup well formed, texts cut by the limit included: tags closed, corners in pairs and in order.
    #[arg(long)]
    pub(crate) well_formed: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum EarlyStopping {
    /// As soon as there are as many ended texts as beams.
    Yes,
    /// When the best open text is no better at its present length than the worst ended one.
    No,
    /// When it is no better even at the most favourable length.
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where the pictures with boxes and the page go.
    #[arg(long, value_name = "DIR", default_value = "demo-output")]
    pub(crate) out: PathBuf,
    /// How the annotations are shown on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Model directory; only its configuration and weights are read.
    #[arg(long, value_name = "DIR", env = "GROUNDLING_MODEL", value_parser = path())]
    pub(crate) model: Option<PathBuf>,
    /// Take random weights instead, of the size that this config.json (or the one in this directory) gives.
    #[arg(long, value_name = "CONFIG")]
    pub(crate) random: Option<PathBuf>,
    /// Pictures together, each with one prompt; several sizes with commas between them.
    #[arg(long, value_name = "B", value_delimiter = ',', default_value = "1", value_parser = at_least_one)]
    pub(crate) batch: Vec<usize>,
    /// Tokens generated for each, exactly.
    #[arg(long, value_name = "K", default_value = "64", value_parser = at_least_one)]
    pub(crate) new_tokens: usize,
    /// Generate a number of tokens between these for each picture instead, drawn evenly and always the same, and let the
    /// next picture join as one ends: --batch are then decoded at once.
    #[arg(long, value_name = "MIN-MAX", value_parser = lengths)]
    pub(crate) lengths: Option<(usize, usize)>,
    /// Send these pictures, again and again, through a whole worker with a NATS server and an S3 store on this machine, and
    /// through its engine alone: --batch are then decoded at once. Needs --model.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "model", conflicts_with_all = ["random", "lengths"])]
    pub(crate) through_worker: Vec<PathBuf>,
    /// With --lengths or --through-worker, pictures of a run; left out, four times as many as are decoded at once.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) pictures: Option<usize>,
    /// What to compute in: f32, bf16, int8 or w8a8 on the CPU; bf16, f16 or f32 on CUDA; or fastest.
    #[arg(long)]
    pub(crate) dtype: Option<String>,
    /// Where to compute: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// Runs that count; figures are their medians.
    #[arg(long, value_name = "R", default_value = "3", value_parser = at_least_one)]
    pub(crate) repeat: usize,
    /// Runs before them that do not.
    #[arg(long, value_name = "W", default_value_t = 1)]
    pub(crate) warmup: usize,
    /// What an hour of this machine costs: adds the cost of 1000 pictures, in the same currency.
    #[arg(long, value_name = "PRICE")]
    pub(crate) price_per_hour: Option<f64>,
    /// How the figures are written: a table, or a JSON object for each batch size.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

fn lengths(text: &str) -> Result<(usize, usize), String> {
    let bounds = text.split_once('-').and_then(|(min, max)| Some((min.parse().ok()?, max.parse().ok()?)));
    bounds.filter(|&(min, max)| 1 <= min && min <= max).ok_or_else(|| "expected two numbers like 8-128".into())
}

/// A path that may be empty: templates write `VARIABLE=` for a value that is not set, and it counts as unset.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number of at least 1".into()),
        Ok(number) => Ok(number),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Inspect {
    /// A prompt as token ids and masks, in JSON.
    Prompt(InspectPrompt),
    /// A picture as the pixel values f32 [1, 3, 224, 224] of a safetensors file.
    Image(InspectImage),
    /// Raw generations, one a line on stdin, as text and entities, one JSON line each.
    Text(InspectText),
}

#[derive(Debug, Args)]
pub(crate) struct InspectPrompt {
    /// Model directory; only its tokenizer and configuration are read.
    #[arg(long, value_name = "DIR", env = "GROUNDLING_MODEL", value_parser = path())]
    pub(crate) model: Option<PathBuf>,
    /// The prompt.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: String,
    /// An entry for each <phrase>: null or a list of boxes, a box being two patch indices or four fractions.
    #[arg(long, value_name = "JSON")]
    pub(crate) boxes: Option<String>,
    /// The prompt alone, without a picture.
    #[arg(long)]
    pub(crate) no_image: bool,
    /// Put </s> behind it.
    #[arg(long)]
    pub(crate) add_eos: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectImage {
    /// Model directory; only its image processor's configuration is read.
    #[arg(long, value_name = "DIR", env = "GROUNDLING_MODEL", value_parser = path())]
    pub(crate) model: Option<PathBuf>,
    /// The picture.
    pub(crate) file: PathBuf,
    /// Where the tensor `pixel_values` goes.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Leave the picture as it is stored, instead of rotating it according to EXIF or XMP.
    #[arg(long)]
    pub(crate) no_exif_orientation: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectText {
    /// Keep the tags and read no entities, as the reference does with cleanup_and_extract=False.
    #[arg(long)]
    pub(crate) raw: bool,
    /// Not needed; taken so that all of `inspect` can be called alike.
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) model: Option<PathBuf>,
}
