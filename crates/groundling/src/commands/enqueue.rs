//! `groundling enqueue`: submits an archive.

mod buckets;
pub(super) mod report;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::anyhow;
use archive::feed::{Annotated, Feed, FeedError, MANIFESTS_ARGUMENT, Progress, Target, pool_rate};
use archive::filter::{Filter, Selection};
use archive::object::SourceObject;
use archive::pool::{Pool, annotations_removed};
use archive::recipe::{Pin, Recipe};
use archive::source::Source;
use archive::source::address::Address;
use archive::source::store::Store;
use async_nats::jetstream::Context;
use broker::connection;
use broker::settings::{NatsSettings, StreamSettings};
use serde_json::{Value, json};
use wire::subjects::Dataset;

use super::stop::stopped;
use crate::enqueue_args::{self, EnqueueArgs, FilterArgs};
use crate::exit::{Misuse, Outcome};
use crate::settings::Settings;
use crate::{job_tasks, own_store, stderr};

/// What has happened if [`annotations_removed`].
pub(super) const ANNOTATIONS_REMOVED: &str =
    "annotations have been removed from their stream (by `export --trim`, limits of the stream, or by hand)";

pub(crate) async fn run(args: EnqueueArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let dataset: Dataset = args.dataset.parse().map_err(|error| Misuse(anyhow!("--dataset: {error}")))?;
    let recipe = Recipe {
        dataset,
        tasks: job_tasks::tasks(&args.prompt, &args.task).map_err(Misuse)?,
        options: job_tasks::options(&args.generation),
        pin: pin(args.pin),
    };
    let example = SourceObject { bucket: "bucket".into(), key: "key".into(), ..SourceObject::default() };
    let prompts = job_tasks::final_prompts(recipe.job(&example))?;
    let filter = filter(&args.filter);
    Selection::new(filter.clone(), None).map_err(|error| Misuse(anyhow!("--glob: {error}")))?;
    let addresses = args.sources.iter().map(|source| Address::parse(source).map_err(|error| Misuse(error.into())));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;

    let settings = Settings::load(settings)?.with_stores(&args.stores);
    let sources = open_sources(&settings, addresses.clone(), args.bucket.as_deref()).await?;
    buckets::warn(&settings.s3.allow, &addresses, &sources);
    let (nats, streams) = settings.for_setup()?;
    let feed = Feed {
        arguments: arguments(&args, &recipe, &sources),
        sources,
        filter,
        sample: args
            .pass
            .sample
            .map(|size| (usize::try_from(size).unwrap_or(usize::MAX), args.generation.seed.unwrap_or(0))),
        unique_etag: args.pass.unique.is_some(),
        missing: args.pass.missing,
        urgent: args.urgent,
        recipe,
        parallel_lanes: args.lanes.into(),
    };
    if args.dry_run {
        return dry_run(&args, &feed, &prompts, &nats, &streams).await;
    }
    let jetstream = connect(&nats).await?;
    if feed.missing {
        warn_of_removed(&jetstream, &streams).await?;
    }
    let target = Target {
        jetstream,
        streams,
        max_waiting: args.max_waiting,
        max_failure_rate: args.max_failure_rate,
        timeout: nats.request_timeout,
        feeder: process_name(),
    };
    let progress = Progress::default();
    // Jobs and cursor are stored together, so the feeder can be dropped at any time.
    let run = async {
        tokio::select! {
            fed = feed.run(&target, &progress) => Ok(fed),
            signal = stopped() => Err(signal),
        }
    };
    let fed = match report::with_progress(run, &progress).await {
        Ok(fed) => fed,
        Err(signal) => {
            let jobs = progress.snapshot().counts.jobs;
            stderr::message!(
                "groundling: interrupted: {jobs} jobs are stored, and the same command continues after them"
            );
            return Ok(Outcome::Interrupted { signal });
        }
    };
    let summary = fed.map_err(|error| match error {
        FeedError::OtherArguments { .. } | FeedError::Recipe(_) => anyhow::Error::from(Misuse(error.into())),
        other => other.into(),
    })?;
    report::summary(&args, summary)?;
    if args.max_failure_rate.is_some() && summary.stored.jobs > 0 && summary.total.jobs <= args.max_waiting {
        stderr::message!(
            "groundling: the {} jobs were stored without waiting for workers, so --max-failure-rate had no effect: it has one if there are more jobs than --max-waiting, which is at least 1000",
            summary.total.jobs
        );
    }
    Ok(Outcome::Done)
}

/// Counts the jobs, and estimates time and cost.
async fn dry_run(
    args: &EnqueueArgs,
    feed: &Feed,
    prompts: &[String],
    nats: &NatsSettings,
    streams: &StreamSettings,
) -> anyhow::Result<Outcome> {
    let annotated = match feed.missing {
        true => {
            let jetstream = connect(nats).await?;
            warn_of_removed(&jetstream, streams).await?;
            Some(Annotated::read(&jetstream, &streams.annotations, &feed.recipe.dataset).await?)
        }
        false => None,
    };
    let progress = Progress::default();
    let counts = report::with_progress(feed.survey(annotated.as_ref(), &progress), &progress).await?;
    let rate = match args.images_per_second {
        Some(rate) => Some(rate),
        None => current_rate(nats, streams).await,
    };
    let workers = match (args.workers, args.price_per_hour.and(rate)) {
        (Some(workers), _) => Some(workers),
        (None, Some(_)) => current_workers(nats, streams).await,
        (None, None) => None,
    };
    report::survey(args, prompts, counts, rate, workers)?;
    Ok(Outcome::Done)
}

/// Says that pictures look as if they had no annotation if theirs was removed from the stream.
async fn warn_of_removed(jetstream: &Context, streams: &StreamSettings) -> anyhow::Result<()> {
    if annotations_removed(jetstream, &streams.annotations).await? {
        stderr::message!("groundling: {ANNOTATIONS_REMOVED}: their pictures have jobs again");
    }
    Ok(())
}

/// The pool's rate in pictures per second. If it is unknown, a message says why.
async fn current_rate(nats: &NatsSettings, streams: &StreamSettings) -> Option<f64> {
    let rate = async { anyhow::Ok(pool_rate(&connect(nats).await?, &streams.annotations).await?) };
    let reason = match rate.await {
        Ok(Some(rate)) => return Some(rate),
        Ok(None) => "no annotations in the last 10 minutes".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    stderr::message!("groundling: the pool's rate is unknown: {reason}; for time and cost, give --images-per-second");
    None
}

/// The workers of the last minute. If they are unknown, a message says why.
async fn current_workers(nats: &NatsSettings, streams: &StreamSettings) -> Option<u64> {
    let seen = async {
        let client = connection::connect(nats, "groundling enqueue").await?;
        let pool = Pool::new(&client, nats, streams.clone());
        let now = pool.now().await?;
        anyhow::Ok(pool.workers(now - time::Duration::MINUTE, now).await?.seen)
    };
    let reason = match seen.await {
        Ok(seen) if seen > 0 => return Some(seen),
        Ok(_) => "no annotations in the last minute".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    stderr::message!("groundling: the number of workers is unknown: {reason}; for the cost, give --workers");
    None
}

async fn connect(nats: &NatsSettings) -> anyhow::Result<Context> {
    let client = connection::connect(nats, "groundling enqueue").await?;
    Ok(connection::jetstream(&client, nats))
}

/// Opens the sources in the store of the settings.
pub(super) async fn open_sources(
    settings: &Settings,
    addresses: Vec<Address>,
    bucket: Option<&str>,
) -> anyhow::Result<Vec<Source>> {
    let store = own_store::open(&settings.s3).await?;
    let store = Store::new(store.client().clone(), settings.s3.requester_pays);
    let mut sources = Vec::new();
    for address in addresses {
        sources.push(Source::open(store.clone(), address, bucket.map(str::to_owned)).await?);
    }
    Ok(sources)
}

pub(super) fn filter(given: &FilterArgs) -> Filter {
    Filter {
        suffixes: given.suffix.clone(),
        min_size: given.min_size,
        max_size: given.max_size,
        modified_after: given.modified_after,
        modified_before: given.modified_before,
        glob: given.glob.clone(),
    }
}

/// The arguments that determine the jobs. A later run must have the same.
fn arguments(args: &EnqueueArgs, recipe: &Recipe, sources: &[Source]) -> BTreeMap<String, Value> {
    let (given, pass) = (&args.filter, &args.pass);
    let identities: Vec<_> = sources.iter().map(Source::identity).collect();
    let all = [
        ("source", json!(args.sources)),
        (MANIFESTS_ARGUMENT, json!(identities)),
        ("--bucket", json!(args.bucket)),
        ("--suffix", json!(given.suffix)),
        ("--glob", json!(given.glob)),
        ("--min-size", json!(given.min_size)),
        ("--max-size", json!(given.max_size)),
        ("--modified-after", json!(given.modified_after)),
        ("--modified-before", json!(given.modified_before)),
        ("--unique", json!(pass.unique.map(|_| "etag"))),
        ("--sample", json!(pass.sample)),
        ("--seed", json!(args.generation.seed.unwrap_or(0))),
        ("--missing", json!(pass.missing.then_some(true))),
        ("--urgent", json!(args.urgent.then_some(true))),
    ];
    let mut arguments = recipe_arguments(&args.task, &args.prompt, recipe);
    arguments.extend(all.into_iter().map(|(name, value)| (name.to_owned(), value)));
    arguments
}

/// The arguments that determine what is asked about each object.
pub(super) fn recipe_arguments(task: &[String], prompt: &[String], recipe: &Recipe) -> BTreeMap<String, Value> {
    let options = recipe.options.map(|options| format!("{options:?}"));
    let all = [
        ("--task", json!(task)),
        ("--prompt", json!(prompt)),
        ("generation options", json!(options)),
        ("--pin", json!(recipe.pin)),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(super) fn pin(given: enqueue_args::Pin) -> Pin {
    match given {
        enqueue_args::Pin::Version => Pin::Version,
        enqueue_args::Pin::Etag => Pin::Etag,
        enqueue_args::Pin::None => Pin::None,
    }
}

/// The name of this process, as other feeders see it.
pub(super) fn process_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} process {}", host.trim(), std::process::id())
}
