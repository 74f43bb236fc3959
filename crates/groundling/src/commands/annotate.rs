//! `groundling annotate`: annotates pictures without a queue.

use std::collections::HashSet;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use engine::USUAL_SLOTS;
use futures::{Stream, StreamExt, stream};
use kosmos2::Query;
use kosmos2::checkpoint::ModelIdentity;
use kosmos2::processor::image::DecodeOptions;
use tokio::sync::Semaphore;
use wire::v1;
use worker::settings_validation::InvalidSettings;

use crate::annotate_args::{AnnotateArgs, AnnotateFormat, OutputArgs};
use crate::exit::{Misuse, Outcome};
use crate::settings::Settings;
use crate::sources::collect::{Collector, Inputs};
use crate::sources::input::{Input, Source};
use crate::sources::reader::Reader;
use crate::stderr;
use crate::{model_dir, model_supply};

mod done_rows;
mod drawings;
mod failure;
mod filter;
mod interrupt;
mod options;
mod out_place;
pub(super) mod page_writer;
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
use prepare::{Ended, Preparer, annotate};
use progress::Progress;
use recipe::Recipe;
use results::{Results, Rows};
use row_files::{Row, RowFiles};

/// Number of pictures that are read and decoded in addition to those in the engine.
const READ_AHEAD: usize = 4;

/// Number of pictures that are read and decoded while the model is loaded: as many as afterwards on a CPU.
const PREFETCH: usize = USUAL_SLOTS + READ_AHEAD;

pub(crate) async fn run(args: AnnotateArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let tasks = prompts::tasks(&args).map_err(Misuse)?;
    let options = options::generation_options(&args.generation)?;
    let filter = Filter::new(&args.output).map_err(Misuse)?;
    let format = format(&args)?;
    if let Some(page) = &args.output.page {
        page_writer::check("--page", page, args.output.out.as_deref()).map_err(Misuse)?;
    }
    let settings = Settings::load(settings)?.with_model(&args.model).with_s3_endpoint(args.s3_endpoint.as_ref());
    check_store(&settings)?;
    let interrupt = Interrupt::listen(settings.worker.shutdown_timeout)?;
    let Some(dir) = interrupt.or(model_supply::directory(&settings.model, &settings.s3)).await else {
        return Ok(interrupted(&interrupt));
    };
    let dir = dir?;
    let model_name = ModelIdentity::name_of(&dir)?;
    let images = model_dir::images(&dir)?;
    let reader = Reader::new(&settings.s3, args.limits.max_bytes);

    let Some(inputs) = interrupt.or(collect(&args, &reader)).await else { return Ok(interrupted(&interrupt)) };
    let Inputs { found, unread, empty, notes, skipped, places } = inputs?;
    for message in notes.iter().chain(&empty) {
        stderr::message!("groundling: {message}");
    }

    let queries: Vec<_> = tasks.iter().map(|task| Query::generate(task.prompt.clone(), options.clone())).collect();
    let tasks = tasks.into_iter().map(|task| task.task).collect();
    let mut labels = filter.labels();
    if args.limits.no_exif_orientation {
        labels.push(("orientation", "ignored".to_owned()));
    }
    // Computing the digest reads all weights. It runs beside loading them, and only if there are rows that have it.
    let has_rows = format == AnnotateFormat::Json && !found.is_empty();
    let model_dir = dir.clone();
    let mut recipe = tokio::task::spawn_blocking(move || {
        let model = if has_rows { identity(&dir)? } else { v1::ModelIdentity::default() };
        Recipe::new(tasks, &options, labels, model)
    });
    let (mut rows, mut done) = (Rows::Stdout, DoneRows::default());
    if let Some(out) = &args.output.out {
        let known = recipe.await??;
        let sources = found.iter().map(|input| &input.source).chain(unread.iter().map(|(source, _)| source));
        let names = sources.map(Source::name).chain(places).collect();
        let (files, earlier) = open_rows(out, &args.output, &known, &names)?;
        (rows, done) = (Rows::Files(files), earlier);
        recipe = tokio::spawn(std::future::ready(Ok(known)));
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
    let prefetched: Vec<_> = found.iter().take(PREFETCH).map(|input| preparer.start(input.clone())).collect();
    let engine = if found.is_empty() {
        None
    } else {
        let model_settings = settings.model.clone();
        let load = tokio::task::spawn_blocking(move || model_dir::open(&model_dir, &model_settings));
        let Some(model) = interrupt.or(load).await else { return Ok(interrupted(&interrupt)) };
        let model = model.context("loading the model panicked")??;
        let mut engine_options = settings.engine.options();
        options::fit_queries(&mut engine_options, model.processor(), &queries)?;
        Some(model_dir::start_engine(model, engine_options)?)
    };
    let recipe = recipe.await??;
    let drawings = args.output.draw.as_deref().map(|dir| match args.output.replace_drawings {
        true => Drawings::new(dir, &found),
        false => Drawings::of_new_run(dir, &found),
    });
    let mut results = Results::new(recipe, filter, format, model_name, rows, drawings.transpose()?, &args.output);

    let mut progress = Progress::new(found.len() + unread.len(), Duration::from_secs(args.output.progress));
    for (reason, count) in skipped {
        progress.counts().skip(reason, count);
    }
    for (source, error) in unread {
        results.failed(&source, &error.into(), &mut progress)?;
    }
    if let Some(engine) = engine {
        let prefetched = prefetched.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
        let work = |(input, prepared): (_, Option<_>)| {
            let (engine, queries) = (&engine, &queries);
            let prepared = prepared.unwrap_or_else(|| preparer.start(Clone::clone(input)));
            async move { (input, annotate(engine, prepared, queries).await) }
        };
        let concurrent = engine.kv_capacity().slots.div_ceil(queries.len()) + READ_AHEAD;
        let started_ones = stream::iter(found.iter().zip(prefetched)).take_until(interrupt.clone().arrived());
        // In the order of the pictures, so that equal runs write equal rows, drawings and pages.
        let ended = started_ones.map(work).buffered(concurrent);
        write_all(ended, &interrupt, &mut results, &mut progress).await?;
    }
    for message in results.finish()? {
        progress.message(&message);
    }
    let (left, failed) = (progress.left(), progress.counts().failed);
    progress.counts().left = left;
    progress::write(format_args!("{}", progress.finish(started.elapsed())));
    if let Some(signal) = interrupt.signal().filter(|_| left > 0) {
        let advice = match &args.output.out {
            Some(_) => "to continue, run the same command with --resume",
            None => "a run with --out can be continued",
        };
        progress::write(format_args!("{left} {} left; {advice}", if left == 1 { "picture" } else { "pictures" }));
        return Ok(Outcome::Interrupted { signal });
    }
    Ok(if failed == 0 && empty.is_empty() { Outcome::Done } else { Outcome::PartlyFailed })
}

/// Writes what has become of each picture, until all have ended or the time after a signal is over.
async fn write_all(
    ended: impl Stream<Item = (&Input, Ended)>,
    interrupt: &Interrupt,
    results: &mut Results,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let (mut ended, mut expired) = (pin!(ended), pin!(interrupt.clone().expired()));
    loop {
        let next = tokio::select! {
            next = ended.next() => next,
            () = progress.line_due() => {
                progress::write(format_args!("{}", progress.line()));
                continue;
            }
            () = &mut expired => {
                progress.message("interrupted: pictures that were started have not ended in time");
                None
            }
        };
        let Some((input, ended)) = next else { return Ok(()) };
        results.add(input, ended, progress)?;
    }
}

/// Checks the settings of the S3 store, except the allow list, which restricts jobs.
fn check_store(settings: &Settings) -> anyhow::Result<()> {
    let problems = settings.s3.problems().into_iter().filter(|problem| !problem.starts_with("s3.allow"));
    let problems: Vec<_> = problems.collect();
    if problems.is_empty() { Ok(()) } else { Err(Misuse(InvalidSettings(problems).into()).into()) }
}

/// The format of the results.
fn format(args: &AnnotateArgs) -> anyhow::Result<AnnotateFormat> {
    if let Some(out) = &args.output.out {
        out_place::check(out).map_err(Misuse)?;
    }
    match (args.output.format, &args.output.out) {
        (None, None) => Ok(AnnotateFormat::Text),
        (None | Some(AnnotateFormat::Json), Some(_)) => Ok(AnnotateFormat::Json),
        (Some(format), None) => Ok(format),
        (Some(AnnotateFormat::Text | AnnotateFormat::JsonV0), Some(_)) => {
            Err(Misuse(anyhow!("--out writes --format json only: leave out --format, or --out")).into())
        }
    }
}

/// Opens the files of `--out`, and reads what they have of the pictures. `names` are those of all pictures, and of the places
/// that were searched for them.
fn open_rows(
    out: &Path,
    args: &OutputArgs,
    recipe: &Recipe,
    names: &HashSet<String>,
) -> anyhow::Result<(RowFiles, DoneRows)> {
    let mut done = DoneRows::default();
    let files = RowFiles::open(out, args.resume, args.shard_rows.get(), |row| match row {
        Row::Annotation(row) => {
            done.add(recipe, *row, args.page.is_some());
            true
        }
        // What failed is tried again.
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
