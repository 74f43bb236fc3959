//! `groundling export`: the annotations of a dataset as files.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use archive::export::{Destination, Export, ExportError, Format, Pictures, Progress, Start, Summary, check_categories};
use archive::pool::Pool;
use broker::connection;
use futures::FutureExt;
use serde_json::json;
use wire::subjects::Dataset;

use super::known_datasets;
use super::stop::stopped;
use crate::args;
use crate::counted::counted;
use crate::exit::{Misuse, Outcome};
use crate::export_args::{ExportArgs, ExportFormat, Layout};
use crate::progress::watched;
use crate::settings::Settings;
use crate::{files, own_store, stderr, stdout};

pub(crate) async fn run(args: ExportArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    use_small_pages();
    let dataset: Dataset = args.dataset.parse().map_err(|error| Misuse(anyhow!("--dataset: {error}")))?;
    let format = format(&args)?;
    let object = Destination::parse_object(&args.out).map_err(|error| Misuse(anyhow!("--out: {error}")))?;
    let pictures = args.pictures || format.needs_pictures();
    let categories = args.categories.as_deref().map(read_categories).transpose()?;
    let settings = Settings::load(settings)?.with_stores(&args.stores);
    let store = if pictures || object.is_some() { Some(own_store::open(&settings.s3).await?) } else { None };
    let requester_pays = settings.s3.requester_pays;
    let destination = match (object, &store) {
        (Some((bucket, prefix)), Some(store)) => Destination::Object { client: store.client().clone(), bucket, prefix },
        _ => Destination::Local(args.out.clone().into()),
    };
    let (nats, streams) = settings.for_setup()?;
    let connection = connection::open(&nats, "groundling export").await?;
    let pool = Pool::new(&connection.client, &nats, streams.clone());
    let export = Export {
        jetstream: connection::jetstream(&connection.client, &nats),
        stream: streams.annotations,
        dataset: dataset.clone(),
        format,
        destination,
        shard_size: args.shard_size,
        start: start(&args),
        end: args.sequence.and_then(|(_, end)| end),
        tasks: args.task.clone(),
        pictures: store.filter(|_| pictures).map(|store| Pictures::new(store.client().clone(), requester_pays)),
        categories,
        follow: args.follow,
        trim: args.trim,
    };
    let (progress, started) = (Arc::new(Progress::default()), Instant::now());
    let said = || {
        let now = progress.snapshot();
        format!("{} messages read, {} shards, sequence {} of {}", now.messages, now.shards, now.sequence, now.last)
    };
    if args.follow {
        known_datasets::report(&pool, std::slice::from_ref(&dataset)).await;
    }
    let exported = watched(export.run(&progress, stopped().map(drop)), said).await;
    let summary = exported.map_err(|error| match error {
        ExportError::OtherPlan { .. }
        | ExportError::OtherStream { .. }
        | ExportError::Occupied { .. }
        | ExportError::BegunElsewhere(_)
        | ExportError::Future(_) => anyhow::Error::from(Misuse(error.into())),
        ExportError::NoNouns(_) => anyhow!("{error}; {}", known_datasets::HINT),
        other => other.into(),
    })?;
    if !args.follow && summary.shards == 0 {
        known_datasets::report(&pool, std::slice::from_ref(&dataset)).await;
    }
    report(&args, &summary, &progress, started.elapsed())?;
    Ok(if summary.unreadable == 0 { Outcome::Done } else { Outcome::PartlyFailed })
}

/// Disables huge pages for the process. The allocator asks for them, but an export uses only parts of each: they would take
/// a quarter of its memory, and the time to clear it.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay enabled");
    }
}

/// The format, checked against the options that belong to some formats only.
fn format(args: &ExportArgs) -> anyhow::Result<Format> {
    let format = match args.format {
        ExportFormat::Parquet if args.layout == Layout::Hub => Format::ParquetHub,
        ExportFormat::Parquet => Format::Parquet,
        ExportFormat::Jsonl => Format::Jsonl,
        ExportFormat::Coco => Format::Coco,
        ExportFormat::Webdataset => Format::Webdataset,
        ExportFormat::LabelStudio => Format::LabelStudio,
        ExportFormat::Grit => Format::Grit,
        ExportFormat::Yolo => Format::Yolo,
        ExportFormat::Cvat => Format::Cvat,
        ExportFormat::Fiftyone => Format::Fiftyone,
        ExportFormat::Opensearch => Format::Opensearch,
    };
    if args.layout == Layout::Hub && args.format != ExportFormat::Parquet {
        return Err(Misuse(anyhow!("--layout hub: only parquet has this layout")).into());
    }
    if args.pictures && !format.has_pictures() {
        return Err(Misuse(anyhow!("--pictures: only parquet, webdataset and yolo can include pictures")).into());
    }
    if args.categories.is_some() && !format.has_categories() {
        return Err(Misuse(anyhow!("--categories: this format has the phrases themselves, not categories")).into());
    }
    Ok(format)
}

fn start(args: &ExportArgs) -> Start {
    match (args.since, args.sequence) {
        (Some(time), _) => Start::Time(time),
        (None, Some((first, _))) => Start::Sequence(first),
        (None, None) => Start::Beginning,
    }
}

/// The text of a file of categories, which is valid.
fn read_categories(file: &Path) -> anyhow::Result<String> {
    let name = file.display().to_string();
    let bytes = std::fs::read(file).with_context(|| name.clone())?;
    let text = files::without_mark(&bytes).map_err(|problem| Misuse(anyhow!("{name}: {problem}")))?;
    let text = std::str::from_utf8(text).map_err(|error| Misuse(anyhow!("{name}: {error}")))?;
    check_categories(&name, text).map_err(|error| Misuse(error.into()))?;
    Ok(text.to_owned())
}

fn report(args: &ExportArgs, summary: &Summary, progress: &Progress, elapsed: Duration) -> anyhow::Result<()> {
    let counts = &summary.counts;
    let read = progress.snapshot().messages;
    let seconds = elapsed.as_secs_f64();
    if args.summary == args::Format::Json {
        return stdout::write_json(&json!({
            "dataset": args.dataset, "out": args.out, "shards": summary.shards, "bytes": summary.bytes,
            "annotations": counts.annotations, "results": counts.results, "boxes": counts.boxes_exported(),
            "repeats": summary.repeats, "unreadable": summary.unreadable, "trimmed": summary.trimmed,
            "boxes_unmapped": counts.boxes_unmapped, "pictures_missing": counts.pictures_missing,
            "pictures_in_jobs": counts.pictures_in_jobs, "without_task": counts.without_task,
            "read": read, "seconds": seconds,
        }));
    }
    for (count, noun, why) in [
        (counts.boxes_unmapped, "box", "no category for the phrase (_stats.json lists such phrases)"),
        (counts.pictures_missing, "picture", "the object does not exist any more or has changed"),
        (counts.pictures_in_jobs, "picture", "sent inside the job, and not stored"),
        (counts.without_task, "annotation", "no result of a task of --task"),
        (summary.unreadable, "message", "not an annotation"),
    ] {
        if count > 0 {
            stderr::message!("groundling: {} left out: {why}", counted(count, noun));
        }
    }
    let removed = match args.trim {
        true => format!(", {} of full shards removed from the stream", summary.trimmed),
        false => String::new(),
    };
    Ok(stdout::write_line(format_args!(
        "{}: {}, {}, {} in {} at {} ({} left out; {} read in {seconds:.1} s){removed}",
        args.dataset,
        counted(counts.annotations, "annotation"),
        counted(counts.results, "result"),
        counted(counts.boxes_exported(), "box"),
        counted(summary.shards, "shard"),
        args.out,
        counted(summary.repeats, "repeat"),
        counted(read, "message")
    ))?)
}
