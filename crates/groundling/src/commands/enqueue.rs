//! `groundling enqueue`: an archive into the queue.

pub(super) mod report;
pub(super) mod tasks;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::anyhow;
use archive::feed::{Feed, FeedError, Progress, Target};
use archive::filter::{Filter, Selection};
use archive::object::SourceObject;
use archive::recipe::{Pin, Recipe};
use archive::source::Source;
use archive::source::address::Address;
use archive::source::store::Store;
use broker::connection;
use serde_json::{Value, json};
use wire::subjects::Dataset;
use worker::fetch::environment::environment_problems;
use worker::fetch::s3::ObjectStore;
use worker::settings_check::SettingsProblems;

use crate::enqueue_args::{self, EnqueueArgs, FilterArgs};
use crate::settings::Settings;
use crate::{Misuse, Outcome};

pub(crate) async fn run(args: EnqueueArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let dataset: Dataset = args.dataset.parse().map_err(|error| Misuse(anyhow!("--dataset: {error}")))?;
    let recipe = Recipe {
        dataset,
        tasks: tasks::tasks(&args.prompt, &args.task).map_err(Misuse)?,
        options: tasks::options(&args.generation),
        pin: pin(args.pin),
    };
    let example = SourceObject { bucket: "bucket".into(), key: "key".into(), ..SourceObject::default() };
    let prompts = tasks::final_prompts(recipe.job(&example))?;
    let filter = filter(&args.filter);
    Selection::new(filter.clone(), None).map_err(|error| Misuse(anyhow!("--glob: {error}")))?;
    let addresses = args.sources.iter().map(|source| Address::parse(source).map_err(|error| Misuse(error.into())));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;

    let settings = Settings::load(settings)?.with_stores(&args.stores);
    let sources = open_sources(&settings, addresses, args.bucket.as_deref()).await?;
    let feed = Feed {
        arguments: arguments(&args, &recipe, &sources),
        sources,
        filter,
        sample: args
            .filter
            .sample
            .map(|size| (usize::try_from(size).unwrap_or(usize::MAX), args.generation.seed.unwrap_or(0))),
        unique_etag: args.filter.unique.is_some(),
        recipe,
        lanes_at_once: args.lanes.into(),
    };
    let progress = Progress::default();
    if args.dry_run {
        let counts = report::watched(feed.survey(&progress), &progress).await?;
        report::survey(&args, &prompts, counts)?;
        return Ok(Outcome::Done);
    }
    let (nats, streams) = settings.for_setup()?;
    let client = connection::connect(&nats, "groundling enqueue").await?;
    let target = Target {
        jetstream: connection::jetstream(&client, &nats),
        stream: streams.jobs,
        consumer: streams.consumer,
        max_waiting: args.max_waiting,
        timeout: nats.request_timeout,
        feeder: feeder_name(),
    };
    let fed = report::watched(feed.run(&target, &progress), &progress).await;
    let summary = fed.map_err(|error| match error {
        FeedError::OtherPlan { .. } | FeedError::Recipe(_) => anyhow::Error::from(Misuse(error.into())),
        other => other.into(),
    })?;
    report::summary(&args, summary)?;
    Ok(Outcome::Done)
}

/// Opens the sources with the store of the settings.
pub(super) async fn open_sources(
    settings: &Settings,
    addresses: Vec<Address>,
    bucket: Option<&str>,
) -> anyhow::Result<Vec<Source>> {
    let mut s3 = settings.s3.clone();
    // The allow-list guards against jobs of others; these sources were typed by whoever holds the keys.
    s3.allow = vec!["*".into()];
    let mut problems = s3.problems();
    problems.extend(environment_problems(&s3, |name| std::env::var(name).ok()));
    if !problems.is_empty() {
        return Err(Misuse(SettingsProblems(problems).into()).into());
    }
    let store = Store::new(ObjectStore::open(&s3).await?.client().clone(), s3.requester_pays);
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

/// Everything that decides which jobs come of the sources. A later run must give the same.
fn arguments(args: &EnqueueArgs, recipe: &Recipe, sources: &[Source]) -> BTreeMap<String, Value> {
    let given = &args.filter;
    let identities: Vec<_> = sources.iter().map(Source::identity).collect();
    let all = [
        ("source", json!(args.sources)),
        ("state of the manifests", json!(identities)),
        ("--bucket", json!(args.bucket)),
        ("--suffix", json!(given.suffix)),
        ("--glob", json!(given.glob)),
        ("--min-size", json!(given.min_size)),
        ("--max-size", json!(given.max_size)),
        ("--modified-after", json!(given.modified_after)),
        ("--modified-before", json!(given.modified_before)),
        ("--unique", json!(given.unique.map(|_| "etag"))),
        ("--sample", json!(given.sample)),
        ("--seed", json!(args.generation.seed.unwrap_or(0))),
    ];
    let mut arguments = recipe_arguments(&args.task, &args.prompt, recipe);
    arguments.extend(all.into_iter().map(|(name, value)| (name.to_owned(), value)));
    arguments
}

/// Those of the arguments that decide what is asked about each object.
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

/// What other feeders are told of this one.
pub(super) fn feeder_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} process {}", host.trim(), std::process::id())
}
