//! `groundling export`: the annotations of a dataset as files.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use archive::export::{Destination, Export, ExportError, Format, Pictures, Progress, Start, Summary};
use broker::connection;
use futures::FutureExt;
use serde_json::json;
use wire::subjects::Dataset;

use super::stop::stopped;
use crate::args;
use crate::exit::{Misuse, Outcome};
use crate::export_args::{ExportArgs, ExportFormat, Layout};
use crate::progress::watched;
use crate::settings::Settings;
use crate::{own_store, stderr, stdout};

pub(crate) async fn run(args: ExportArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let dataset: Dataset = args.dataset.parse().map_err(|error| Misuse(anyhow!("--dataset: {error}")))?;
    let format = format(&args)?;
    let object = Destination::parse_object(&args.out).map_err(|error| Misuse(anyhow!("--out: {error}")))?;
    let pictures = args.pictures || format.needs_pictures();
    let categories = match &args.categories {
        Some(file) => Some(std::fs::read_to_string(file).with_context(|| file.display().to_string())?),
        None => None,
    };
    let settings = Settings::load(settings)?.with_stores(&args.stores);
    let store = if pictures || object.is_some() { Some(own_store::open(&settings.s3).await?) } else { None };
    let requester_pays = settings.s3.requester_pays;
    let destination = match (object, &store) {
        (Some((bucket, prefix)), Some(store)) => Destination::Object { client: store.client().clone(), bucket, prefix },
        _ => Destination::Local(args.out.clone().into()),
    };
    let (nats, streams) = settings.for_setup()?;
    let connection = connection::open(&nats, "groundling export").await?;
    let export = Export {
        jetstream: connection::jetstream(&connection.client, &nats),
        stream: streams.annotations,
        dataset,
        format,
        destination,
        shard_size: args.shard_size,
        start: start(&args)?,
        end: args.sequence.and_then(|(_, end)| end),
        pictures: store.filter(|_| pictures).map(|store| Pictures::new(store.client().clone(), requester_pays)),
        categories,
        follow: args.follow,
        trim: args.trim,
    };
    let (progress, started) = (Arc::new(Progress::default()), Instant::now());
    let said = || {
        let now = progress.snapshot();
        format!("{} annotations, {} shards, sequence {} of {}", now.annotations, now.shards, now.sequence, now.last)
    };
    let exported = watched(export.run(&progress, stopped().map(drop)), said).await;
    let summary = exported.map_err(|error| match error {
        ExportError::OtherPlan { .. } | ExportError::OtherStream { .. } | ExportError::Categories { .. } => {
            anyhow::Error::from(Misuse(error.into()))
        }
        other => other.into(),
    })?;
    report(&args, &summary, &progress, started.elapsed())?;
    Ok(if summary.unreadable == 0 { Outcome::Done } else { Outcome::PartlyFailed })
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

fn start(args: &ExportArgs) -> anyhow::Result<Start> {
    Ok(match (args.since, args.sequence) {
        (Some(seconds), _) => Start::Time(
            time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| Misuse(anyhow!("--since: {error}")))?,
        ),
        (None, Some((first, _))) => Start::Sequence(first),
        (None, None) => Start::Beginning,
    })
}

fn report(args: &ExportArgs, summary: &Summary, progress: &Progress, elapsed: Duration) -> anyhow::Result<()> {
    let counts = &summary.counts;
    let read = progress.snapshot().annotations;
    let seconds = elapsed.as_secs_f64();
    if args.summary == args::Format::Json {
        return stdout::write_json(&json!({
            "dataset": args.dataset, "out": args.out, "shards": summary.shards, "bytes": summary.bytes,
            "annotations": counts.annotations, "results": counts.results, "boxes": counts.boxes,
            "repeats": summary.repeats, "unreadable": summary.unreadable, "trimmed": summary.trimmed,
            "boxes_unmapped": counts.boxes_unmapped, "pictures_missing": counts.pictures_missing,
            "read": read, "seconds": seconds,
        }));
    }
    for (count, text) in [
        (counts.boxes_unmapped, "boxes left out, their phrases have no category (_stats.json lists the phrases)"),
        (counts.pictures_missing, "pictures left out, the objects do not exist any more or have changed"),
        (summary.unreadable, "messages left out, they are not annotations"),
    ] {
        if count > 0 {
            stderr::message!("groundling: {count} {text}");
        }
    }
    let removed =
        if summary.trimmed > 0 { format!(", {} removed from the stream", summary.trimmed) } else { String::new() };
    Ok(stdout::write_line(format_args!(
        "{}: {} annotations, {} results, {} boxes in {} shards at {} ({} repeats left out; {read} annotations read in {seconds:.1} s){removed}",
        args.dataset, counts.annotations, counts.results, counts.boxes, summary.shards, args.out, summary.repeats
    ))?)
}
