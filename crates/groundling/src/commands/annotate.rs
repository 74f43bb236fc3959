//! `groundling annotate`: annotates pictures without a queue.

use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;

use anyhow::{Context, anyhow};
use broker::causes::causes;
use engine::{Engine, EngineOptions, Request, USUAL_SLOTS};
use futures::{StreamExt, stream};
use kosmos2::checkpoint::ModelIdentity;
use kosmos2::options::{BeamOptions, GenerationOptions, GroundedText, Sampling};
use kosmos2::processor::image::{DecodeLimit, DecodeOptions, ImageError, ImageProcessor, Picture, PixelValues, decode};
use kosmos2::{Processor, Query};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use worker::fetch::{FetchError, FetchErrorKind};

use crate::args::{AnnotateArgs, GenerationArgs};
use crate::exit::{Misuse, Outcome};
use crate::report::{self, Result as Report};
use crate::settings::Settings;
use crate::sources::{Input, Inputs, Reader, Source};
use crate::{model_dir, stderr};

mod drawings;
mod prompts;

use drawings::Drawings;

/// Number of pictures that are read and decoded in addition to those in the engine.
const READ_AHEAD: usize = 4;

/// Number of pictures that are read and decoded while the model is loaded: as many as afterwards on a CPU.
const PREFETCH: usize = USUAL_SLOTS + READ_AHEAD;

pub(crate) async fn run(args: AnnotateArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let prompts = prompts::prompts(&args).map_err(Misuse)?;
    let options = generation_options(&args.generation)?;
    let queries: Vec<_> = prompts.into_iter().map(|prompt| Query::generate(prompt, options.clone())).collect();
    let mut inputs = Inputs::default();
    for argument in &args.images {
        inputs.add(argument, args.draw.as_deref()).map_err(Misuse)?;
    }
    let Inputs { found: inputs, problems } = inputs;
    for problem in &problems {
        stderr::message!("groundling: {problem}");
    }
    let settings = Settings::load(settings)?.with_model(&args.model);
    let dir = model_dir::require(settings.model.path.as_ref())?;
    let model_name = ModelIdentity::name_of(dir)?;
    let decoding = DecodeOptions {
        apply_orientation: !args.no_exif_orientation,
        max_pixels: args.max_pixels,
        max_side: args.max_side,
        max_memory: args.max_decode_bytes,
        ..DecodeOptions::default()
    };
    let preparer = Arc::new(Preparer {
        reader: Reader::new(&settings.s3, args.max_bytes),
        decoding,
        images: model_dir::images(dir)?,
        keep_pictures: args.draw.is_some(),
        decoders: Semaphore::new(available_parallelism().map_or(1, usize::from)),
    });
    // Loading a model leaves most processors idle.
    let prefetched: Vec<_> = inputs.iter().take(PREFETCH).map(|input| preparer.start(input.source.clone())).collect();
    let model = model_dir::open(&settings.model)?;
    let mut options = settings.engine.options();
    fit_queries(&mut options, model.processor(), &queries)?;
    let engine = model_dir::start_engine(model, options)?;
    let mut drawings = args.draw.as_deref().map(|dir| Drawings::new(dir, &inputs)).transpose()?;

    let prefetched = prefetched.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    let work = |(input, prepared): (&Input, Option<_>)| {
        let prepared = prepared.unwrap_or_else(|| preparer.start(input.source.clone()));
        annotate(&engine, prepared, &queries)
    };
    let concurrent = engine.kv_capacity().slots.div_ceil(queries.len()) + READ_AHEAD;
    let mut results = stream::iter(inputs.iter().zip(prefetched)).map(work).buffered(concurrent);
    let mut failed = 0;
    for input in &inputs {
        let Some(result) = results.next().await else { break };
        let name = input.source.name();
        let mut failures = Vec::new();
        match result {
            Err(error) => failures.push(error),
            Ok((picture, answers)) => {
                for (index, answer) in answers.iter().enumerate() {
                    let prompt = (answers.len() > 1).then_some(index + 1);
                    let drawing = drawings.as_mut().zip(picture.as_ref()).map(|(drawings, picture)| {
                        let drawn = review::draw(&picture.rgb, &report::labelled(answer));
                        drawings.write(&input.mirror, prompt, &drawn)
                    });
                    let drawing = drawing.and_then(|written| written.map_err(|error| failures.push(error)).ok());
                    let report = Report::new(&name, &model_name, answer, !args.no_cleanup);
                    report.with_drawing(drawing.as_deref()).print(args.format)?;
                }
            }
        }
        failed += usize::from(!failures.is_empty());
        for error in failures {
            stderr::message!("groundling: {}", failure_message(&name, &error));
        }
    }
    if failed == 0 && problems.is_empty() {
        return Ok(Outcome::Done);
    }
    stderr::message!("groundling: {}", summary(failed, inputs.len(), problems.len()));
    Ok(Outcome::PartlyFailed)
}

/// The error prefixed with the picture's name, unless it begins with that, and the option that raises an exceeded limit.
fn failure_message(name: &str, error: &anyhow::Error) -> String {
    let text = causes(error.as_ref());
    let named = if text.starts_with(name) { text } else { format!("{name}: {text}") };
    match raised_by(error) {
        Some(option) => format!("{named}; raise {option} to allow it"),
        None => named,
    }
}

/// The option that raises the limit that a picture exceeded.
fn raised_by(error: &anyhow::Error) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<FetchError>() {
        return (error.kind() == FetchErrorKind::TooLarge).then_some("--max-bytes");
    }
    Some(match error.downcast_ref::<ImageError>()?.exceeded_limit()? {
        DecodeLimit::Pixels => "--max-pixels",
        DecodeLimit::Side => "--max-side",
        DecodeLimit::Memory => "--max-decode-bytes",
    })
}

/// The numbers of failed and skipped pictures.
fn summary(failed: usize, pictures: usize, skipped: usize) -> String {
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let mut summary = format!("{failed} of {pictures} picture{} failed", plural(pictures));
    if skipped > 0 {
        let directories = if skipped == 1 { "directory" } else { "directories" };
        summary += &format!(", {skipped} argument{} or {directories} skipped", plural(skipped));
    }
    summary
}

/// The picture if `--draw` needs it, and the answers.
type Annotated = (Option<Picture>, Vec<GroundedText>);

/// The picture if `--draw` needs it, and the model's input.
type Prepared = (Option<Picture>, PixelValues);

async fn annotate(
    engine: &Engine,
    prepared: JoinHandle<anyhow::Result<Prepared>>,
    queries: &[Query],
) -> anyhow::Result<Annotated> {
    let (picture, pixels) = prepared.await.context("the decoder panicked")??;
    let response = engine.submit(Request { pixels, queries: queries.to_vec() }).await?;
    Ok((picture, response.texts))
}

/// Reads and decodes pictures.
struct Preparer {
    reader: Reader,
    decoding: DecodeOptions,
    images: ImageProcessor,
    /// Whether decoded pictures are kept, for `--draw`.
    keep_pictures: bool,
    /// Limits the pictures decoded at once to the number of processors: each takes memory.
    decoders: Semaphore,
}

impl Preparer {
    /// Starts to read and decode a picture.
    fn start(self: &Arc<Self>, source: Source) -> JoinHandle<anyhow::Result<Prepared>> {
        let own = Arc::clone(self);
        tokio::spawn(async move {
            // Files are read only once they can be decoded, so that fewer of them are in memory.
            let is_file = matches!(source, Source::File(_));
            let fetched = if is_file { None } else { Some(own.reader.read(&source).await?) };
            let _permit = own.decoders.acquire().await?;
            let bytes = match fetched {
                Some(bytes) => bytes,
                None => own.reader.read(&source).await?,
            };
            let images = Arc::clone(&own);
            let prepare = move || {
                let picture = decode(&bytes, &images.decoding)?;
                let pixels = images.images.pixel_values(&picture);
                anyhow::Ok((images.keep_pictures.then_some(picture), pixels))
            };
            tokio::task::spawn_blocking(prepare).await.context("the decoder panicked")?
        })
    }
}

/// Raises the engine's slots and their tokens to what the queries take.
///
/// # Errors
/// A query is not valid: it would fail for every picture.
fn fit_queries(engine: &mut EngineOptions, processor: &Processor, queries: &[Query]) -> anyhow::Result<()> {
    for query in queries {
        let prepared = processor.encode(query).map_err(|error| Misuse(error.into()))?;
        let decoding = processor.decoding(&prepared).map_err(|error| Misuse(error.into()))?;
        engine.slot_tokens = engine.slot_tokens.max(decoding.max_tokens());
        if decoding.slots() > engine.slots.unwrap_or(USUAL_SLOTS) {
            engine.slots = Some(decoding.slots());
        }
    }
    Ok(())
}

fn generation_options(args: &GenerationArgs) -> anyhow::Result<GenerationOptions> {
    let options = GenerationOptions {
        max_new_tokens: args.max_new_tokens,
        no_repeat_ngram_size: args.no_repeat_ngram_size,
        repetition_penalty: args.repetition_penalty,
        sampling: sampling(args),
        well_formed: args.well_formed,
    };
    options.check().map_err(|error| Misuse(anyhow!("--{}", error.to_string().replacen('_', "-", 3))))?;
    Ok(options)
}

fn sampling(args: &GenerationArgs) -> Sampling {
    if let Some(num_beams) = args.num_beams {
        let GenerationArgs { length_penalty, early_stopping, .. } = *args;
        return Sampling::Beam(BeamOptions { num_beams, length_penalty, early_stopping });
    }
    if args.temperature.is_none() && args.top_k.is_none() && args.top_p.is_none() {
        return Sampling::Greedy;
    }
    Sampling::Random {
        temperature: args.temperature.unwrap_or(1.0),
        top_k: args.top_k,
        top_p: args.top_p.unwrap_or(1.0),
        seed: args.seed,
    }
}
