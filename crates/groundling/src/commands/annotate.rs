//! `groundling annotate`: annotates pictures without a queue.

use std::collections::HashSet;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use engine::USUAL_SLOTS;
use futures::{StreamExt, stream};
use kosmos2::Query;
use kosmos2::checkpoint::ModelIdentity;
use kosmos2::processor::image::DecodeOptions;
use tokio::sync::Semaphore;
use wire::v1;

use crate::annotate_args::{AnnotateArgs, AnnotateFormat, OutputArgs};
use crate::exit::{Misuse, Outcome};
use crate::settings::Settings;
use crate::sources::collect::{Collector, Inputs};
use crate::sources::input::Input;
use crate::sources::reader::Reader;
use crate::stderr;
use crate::{model_dir, model_supply};

mod done_rows;
mod drawings;
mod failure;
mod filter;
mod interrupt;
mod options;
mod page_writer;
mod prepare;
mod progress;
mod prompts;
mod recipe;
mod results;
mod row_files;

use done_rows::DoneRows;
use drawings::Drawings;
use filter::Filter;
use interrupt::Interrupt;
use prepare::{Preparer, annotate};
use progress::{Counts, Progress};
use recipe::Recipe;
use results::{Results, Rows};
use row_files::{Row, RowFiles};

/// Number of pictures that are read and decoded in addition to those in the engine.
const READ_AHEAD: usize = 4;

/// Number of pictures that are read and decoded while the model is loaded: as many as afterwards on a CPU.
const PREFETCH: usize = USUAL_SLOTS + READ_AHEAD;

pub(crate) async fn run(args: AnnotateArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let interrupt = Interrupt::listen()?;
    let tasks = prompts::tasks(&args).map_err(Misuse)?;
    let options = options::generation_options(&args.generation)?;
    let filter = Filter::new(&args.output).map_err(Misuse)?;
    let format = format(&args)?;
    if let Some(page) = &args.output.page {
        page_writer::check(page, args.output.out.as_deref()).map_err(Misuse)?;
    }
    let settings = Settings::load(settings)?.with_model(&args.model).with_s3_endpoint(args.s3_endpoint.as_ref());
    let Some(dir) = interrupt.or(model_supply::directory(&settings.model, &settings.s3)).await else {
        return Ok(interrupted(&interrupt));
    };
    let dir = dir?;
    let model_name = ModelIdentity::name_of(&dir)?;
    let images = model_dir::images(&dir)?;
    let reader = Reader::new(&settings.s3, args.limits.max_bytes);

    let Some(inputs) = interrupt.or(collect(&args, &reader)).await else { return Ok(interrupted(&interrupt)) };
    let Inputs { found: inputs, problems, notes, not_pictures } = inputs?;
    for message in notes.iter().chain(&problems) {
        stderr::message!("groundling: {message}");
    }

    let queries: Vec<_> = tasks.iter().map(|task| Query::generate(task.prompt.clone(), options.clone())).collect();
    let tasks = tasks.into_iter().map(|task| task.task).collect();
    let mut labels = filter.labels();
    if args.limits.no_exif_orientation {
        labels.push(("orientation", "ignored".to_owned()));
    }
    // Computing the digest reads all weights. It runs beside loading them, and only if rows have the digest.
    let has_rows = format == AnnotateFormat::Json;
    let model_dir = dir.clone();
    let mut recipe = tokio::task::spawn_blocking(move || {
        let model = if has_rows { identity(&dir)? } else { v1::ModelIdentity::default() };
        Recipe::new(tasks, &options, labels, model)
    });
    let (mut inputs, mut rows, mut done) = (inputs, Rows::Stdout, DoneRows::default());
    if let Some(out) = &args.output.out {
        let known = recipe.await??;
        let (files, earlier) = open_rows(out, &args.output, &known, &inputs)?;
        (rows, done) = (Rows::Files(files), earlier);
        recipe = tokio::spawn(std::future::ready(Ok(known)));
        // A picture that is named twice has one row.
        let mut seen = HashSet::new();
        inputs.retain(|input| seen.insert(input.source.clone()));
    }

    let limits = &args.limits;
    let preparer = Arc::new(Preparer {
        reader,
        decoding: DecodeOptions {
            apply_orientation: !limits.no_exif_orientation,
            max_pixels: limits.max_pixels,
            max_side: limits.max_side,
            max_memory: limits.max_decode_bytes,
            ..DecodeOptions::default()
        },
        images,
        keep_pictures: args.output.draw.is_some(),
        with_page: args.output.page.is_some(),
        done,
        decoders: Semaphore::new(available_parallelism().map_or(1, usize::from)),
    });
    // Loading a model leaves most processors idle.
    let prefetched: Vec<_> = inputs.iter().take(PREFETCH).map(|input| preparer.start(input.clone())).collect();
    let model_settings = settings.model.clone();
    let load = tokio::task::spawn_blocking(move || model_dir::open(&model_dir, &model_settings));
    let Some(model) = interrupt.or(load).await else { return Ok(interrupted(&interrupt)) };
    let model = model.context("loading the model panicked")??;
    let mut engine_options = settings.engine.options();
    options::fit_queries(&mut engine_options, model.processor(), &queries)?;
    let engine = model_dir::start_engine(model, engine_options)?;
    let recipe = recipe.await??;
    let drawings = args.output.draw.as_deref().map(|dir| match args.output.replace_drawings {
        true => Drawings::new(dir, &inputs),
        false => Drawings::of_new_run(dir, &inputs),
    });
    let mut results = Results::new(recipe, filter, format, model_name, rows, drawings.transpose()?, &args.output);

    let counts = Counts { not_pictures, problems: problems.len(), ..Counts::default() };
    let mut progress = Progress::new(inputs.len(), counts, Duration::from_secs(args.output.progress));
    let prefetched = prefetched.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    let work = |(input, prepared): (_, Option<_>)| {
        let (engine, queries) = (&engine, &queries);
        let prepared = prepared.unwrap_or_else(|| preparer.start(Clone::clone(input)));
        async move { (input, annotate(engine, prepared, queries).await) }
    };
    let concurrent = engine.kv_capacity().slots.div_ceil(queries.len()) + READ_AHEAD;
    let started_ones = stream::iter(inputs.iter().zip(prefetched)).take_until(interrupt.clone().arrived());
    let mut ended = pin!(started_ones.map(work).buffered(concurrent));
    loop {
        let next = tokio::select! {
            next = ended.next() => next,
            () = progress.line_due() => {
                progress::write(format_args!("{}", progress.line()));
                continue;
            }
        };
        let Some((input, ended)) = next else { break };
        results.add(input, ended, &mut progress)?;
    }
    for message in results.finish()? {
        progress.message(&message);
    }
    let counts = progress.counts();
    progress::write(format_args!("{}", progress.finish(started.elapsed())));
    let ended = counts.done + counts.failed + counts.present + counts.not_pictures - not_pictures;
    if let Some(signal) = interrupt.signal().filter(|_| ended < inputs.len()) {
        let left = inputs.len() - ended;
        match &args.output.out {
            Some(_) => {
                progress::write(format_args!("{left} pictures left; to continue, run the same command with --resume"));
            }
            None => progress::write(format_args!("{left} pictures left; a run with --out can be continued")),
        }
        return Ok(Outcome::Interrupted { signal });
    }
    let is_whole = counts.failed == 0 && problems.is_empty();
    Ok(if is_whole { Outcome::Done } else { Outcome::PartlyFailed })
}

/// The format of the results.
fn format(args: &AnnotateArgs) -> anyhow::Result<AnnotateFormat> {
    match (args.output.format, &args.output.out) {
        (None, None) => Ok(AnnotateFormat::Text),
        (None | Some(AnnotateFormat::Json), Some(_)) => Ok(AnnotateFormat::Json),
        (Some(format), None) => Ok(format),
        (Some(AnnotateFormat::Text | AnnotateFormat::JsonV0), Some(_)) => {
            Err(Misuse(anyhow!("--out writes --format json only")).into())
        }
    }
}

/// Opens the files of `--out`, and reads what they have of the pictures.
fn open_rows(out: &Path, args: &OutputArgs, recipe: &Recipe, inputs: &[Input]) -> anyhow::Result<(RowFiles, DoneRows)> {
    let names: HashSet<String> = inputs.iter().map(|input| input.source.name()).collect();
    let mut done = DoneRows::default();
    let files = RowFiles::open(out, args.resume, args.shard_rows.get(), |row| match row {
        Row::Annotation(row) => {
            done.add(recipe, *row, args.page.is_some());
            true
        }
        // Pictures that failed are tried again.
        Row::Failure(row) => row.job_id.is_none_or(|name| !names.contains(&name)),
    })?;
    Ok((files, done))
}

/// The identity of the model as annotations have it.
fn identity(dir: &Path) -> anyhow::Result<v1::ModelIdentity> {
    let ModelIdentity { name, revision, digest } =
        ModelIdentity::of_dir(dir).context("cannot compute the digest of the model")?;
    Ok(v1::ModelIdentity { name, revision, digest })
}

/// The pictures that the command line names.
async fn collect(args: &AnnotateArgs, reader: &Reader) -> anyhow::Result<Inputs> {
    let except: Vec<&Path> =
        [&args.output.draw, &args.output.out].into_iter().flatten().map(|dir| dir.as_path()).collect();
    let mut collector = Collector::new(reader, &except, args.follow_links);
    for argument in &args.images {
        collector.add(argument).await.map_err(Misuse)?;
    }
    if let Some(list) = &args.files_from {
        collector.add_list(list).await.map_err(Misuse)?;
    }
    Ok(collector.finish())
}

/// The end of a run that was interrupted before its first picture.
fn interrupted(interrupt: &Interrupt) -> Outcome {
    progress::write(format_args!("interrupted before the first picture"));
    Outcome::Interrupted { signal: interrupt.signal().unwrap_or(0) }
}
