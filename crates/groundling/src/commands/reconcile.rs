//! `groundling reconcile`: an archive compared with a dataset.

use std::path::Path;

use anyhow::anyhow;
use archive::feed::{Feed, FeedError, Progress, Target};
use archive::filter::Selection;
use archive::object::SourceObject;
use archive::pool::Pool;
use archive::recipe::Recipe;
use archive::reconcile::{ReconcileProgress, Reconciled, reconcile};
use archive::source::address::Address;
use broker::connection;
use serde_json::json;
use wire::subjects::Dataset;

use super::enqueue::{ANNOTATIONS_REMOVED, filter, open_sources, pin, process_name, recipe_arguments};
use super::known_datasets::check_known;
use crate::args::Format;
use crate::bulk_args::ReconcileArgs;
use crate::exit::{Misuse, Outcome};
use crate::progress::watched;
use crate::settings::Settings;
use crate::{job_tasks, stderr, stdout};

pub(crate) async fn run(args: ReconcileArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let feed = feed(&args, settings).await?;
    let (nats, streams) = Settings::load(settings)?.with_stores(&args.stores).for_setup()?;
    let client = connection::connect(&nats, "groundling reconcile").await?;
    let pool = Pool::new(&client, &nats, streams.clone());
    check_known(&pool, [&feed.recipe.dataset]).await?;
    let target = Target {
        jetstream: connection::jetstream(&client, &nats),
        streams,
        max_waiting: args.max_waiting,
        max_failure_rate: None,
        timeout: nats.request_timeout,
        feeder: process_name(),
    };
    // Before the streams are read, so that nobody else submits what is found to be missing.
    let repair = match args.enqueue {
        true => Some(feed.begin_repair(&target).await.map_err(|error| match error {
            FeedError::OtherArguments { .. } | FeedError::Recipe(_) => anyhow::Error::from(Misuse(error.into())),
            other => other.into(),
        })?),
        false => None,
    };
    let progress = ReconcileProgress::default();
    let read = || {
        let (objects, records) = progress.counts();
        format!("{objects} objects and {records} messages read")
    };
    let mut found = watched(reconcile(&pool, &feed, &progress), read).await?;
    if found.annotations_removed && found.missing > 0 {
        stderr::message!("groundling: {ANNOTATIONS_REMOVED}: their objects are counted as missing");
    }
    if found.is_unique && found.missing > 0 {
        stderr::message!(
            "groundling: the dataset was fed with --unique: objects that were skipped are counted as missing"
        );
    }
    for object in found.missing_objects.objects()? {
        print_missing(&object?, args.format)?;
    }
    let enqueued = match repair {
        Some(repair) => Some(feed.repair(repair, found.missing_objects.objects()?, &Progress::default()).await?.jobs),
        None => None,
    };
    print_summary(&args, &found, enqueued)?;
    Ok(Outcome::Done)
}

async fn feed(args: &ReconcileArgs, settings: Option<&Path>) -> anyhow::Result<Feed> {
    let dataset: Dataset = args.dataset.parse().map_err(|error| Misuse(anyhow!("--dataset: {error}")))?;
    if args.sample.is_some() || args.unique.is_some() || args.missing {
        let error = anyhow!(
            "--sample, --unique and --missing cannot be given: the dataset's own sample is used, and --enqueue submits what is missing"
        );
        return Err(Misuse(error).into());
    }
    let recipe = Recipe {
        dataset,
        tasks: job_tasks::tasks(&args.prompt, &args.task).map_err(Misuse)?,
        options: job_tasks::options(&args.generation),
        pin: pin(args.pin),
    };
    let example = SourceObject { bucket: "bucket".into(), key: "key".into(), ..SourceObject::default() };
    job_tasks::final_prompts(recipe.job(&example))?;
    let filter = filter(&args.filter);
    Selection::new(filter.clone(), None).map_err(|error| Misuse(anyhow!("--glob: {error}")))?;
    let addresses = args.sources.iter().map(|source| Address::parse(source).map_err(|error| Misuse(error.into())));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    let settings = Settings::load(settings)?.with_stores(&args.stores);
    Ok(Feed {
        sources: open_sources(&settings, addresses, args.bucket.as_deref()).await?,
        filter,
        sample: None,
        unique_etag: false,
        missing: false,
        urgent: args.urgent,
        arguments: recipe_arguments(&args.task, &args.prompt, &recipe),
        recipe,
        parallel_lanes: args.lanes.into(),
    })
}

fn print_missing(object: &SourceObject, format: Format) -> anyhow::Result<()> {
    let SourceObject { bucket, key, size, etag, version, .. } = object;
    match format {
        Format::Json => stdout::write_json(&json!({
            "missing": {"bucket": bucket, "key": key, "size": size, "etag": etag, "version_id": version},
        })),
        Format::Text => {
            let address = format!("s3://{bucket}/{key}");
            Ok(stdout::write_line(format_args!("missing {}", stderr::escape_control(&address)))?)
        }
    }
}

fn print_summary(args: &ReconcileArgs, found: &Reconciled, enqueued: Option<u64>) -> anyhow::Result<()> {
    let Reconciled { read, repeated, objects, done, failed, waiting, missing, elsewhere, .. } = found;
    if args.format == Format::Json {
        return stdout::write_json(&json!({
            "dataset": args.dataset, "read": read, "repeated": repeated, "selected": objects, "done": done, "failed": failed, "waiting": waiting,
            "missing": missing, "elsewhere": elsewhere, "enqueued": enqueued,
        }));
    }
    stdout::write_line(format_args!(
        "{}: {read} objects read, {objects} selected = {done} done + {failed} failed + {waiting} waiting + {missing} missing",
        args.dataset
    ))?;
    if *repeated > 0 {
        stdout::write_line(format_args!("{repeated} selected objects were read again, and are counted once"))?;
    }
    if *elsewhere > 0 {
        stdout::write_line(format_args!(
            "{elsewhere} jobs, annotations and failures of other objects, or of earlier states of these"
        ))?;
    }
    if let Some(enqueued) = enqueued {
        stdout::write_line(format_args!("{enqueued} jobs stored"))?;
    }
    Ok(())
}
