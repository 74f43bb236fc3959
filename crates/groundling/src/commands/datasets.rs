//! `groundling datasets`: lists, pauses, resumes and cancels datasets.

use std::path::Path;

use archive::feed::{Cancelled, DatasetState, DatasetSummary, Datasets};
use broker::connection;
use serde_json::{Value, json};
use wire::subjects::Dataset;

use crate::args::Format;
use crate::commands::enqueue::process_name;
use crate::enqueue_args::{DatasetArgs, DatasetsAction, DatasetsArgs};
use crate::exit::{Misuse, Outcome};
use crate::settings::Settings;
use crate::stdout;

pub(crate) async fn run(args: DatasetsArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let name = |given: &DatasetArgs| given.dataset.parse::<Dataset>().map_err(|error| Misuse(error.into()));
    let (nats, streams) = Settings::load(settings)?.with_stores(&args.stores).for_setup()?;
    let open = async || {
        let client = connection::connect(&nats, "groundling datasets").await?;
        let jetstream = connection::jetstream(&client, &nats);
        anyhow::Ok(Datasets::open(jetstream, streams.clone(), nats.request_timeout).await?)
    };
    match &args.action {
        DatasetsAction::List => list(&open().await?.list().await?, args.format)?,
        DatasetsAction::Pause(given) => {
            let dataset = name(given)?;
            let before = open().await?.pause(&dataset).await?;
            print_state(&dataset, before, DatasetState::Paused, args.format)?;
        }
        DatasetsAction::Resume(given) => {
            let dataset = name(given)?;
            let before = open().await?.resume(&dataset).await?;
            print_state(&dataset, before, DatasetState::Active, args.format)?;
        }
        DatasetsAction::Cancel(given) => {
            let dataset = name(given)?;
            let by = format!("datasets cancel, {}", process_name());
            let cancelled = open().await?.cancel(&dataset, &by).await?;
            print_cancelled(&dataset, cancelled, args.format)?;
        }
    }
    Ok(Outcome::Done)
}

fn print_cancelled(dataset: &Dataset, cancelled: Cancelled, format: Format) -> anyhow::Result<()> {
    let Cancelled { jobs, retries, has_plan } = cancelled;
    if format == Format::Json {
        return stdout::write_json(&json!({
            "dataset": dataset.as_str(), "state": has_plan.then_some("cancelled"), "removed_jobs": jobs,
            "removed_retries": retries,
        }));
    }
    let removed = format!("{jobs} waiting jobs and {retries} retries removed");
    let text = match has_plan {
        true => format!("{dataset}: cancelled, {removed}"),
        false => format!("{dataset}: {removed}; it was never enqueued, and can get jobs again"),
    };
    Ok(stdout::write_line(format_args!("{text}"))?)
}

fn print_state(dataset: &Dataset, before: DatasetState, state: DatasetState, format: Format) -> anyhow::Result<()> {
    let changed = before != state;
    if format == Format::Json {
        return stdout::write_json(&json!({"dataset": dataset.as_str(), "state": state, "changed": changed}));
    }
    let state = match state {
        DatasetState::Active => "active",
        DatasetState::Paused => "paused",
        DatasetState::Cancelled => "cancelled",
    };
    let already = if changed { "" } else { "already " };
    Ok(stdout::write_line(format_args!("{dataset}: {already}{state}"))?)
}

fn list(datasets: &[DatasetSummary], format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        for dataset in datasets {
            stdout::write_json(&summary_json(dataset))?;
        }
        return Ok(());
    }
    let rows = datasets.iter().map(|dataset| {
        [
            dataset.dataset.clone(),
            dataset.source_state().as_str().to_owned(),
            dataset.counts.seen.to_string(),
            dataset.counts.jobs.to_string(),
            dataset.waiting.to_string(),
            dataset.retrying.to_string(),
            format!("{}/{}", dataset.lanes_done, dataset.lanes),
        ]
    });
    let header = ["dataset", "state", "read", "jobs", "waiting", "retrying", "lanes"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3, 4, 5].map(width);
    for row in &rows {
        let [dataset, state, read, jobs, waiting, retrying, lanes] = row;
        let [a, b, c, d, e, f] = widths;
        stdout::write_line(format_args!(
            "{dataset:<a$}  {state:<b$}  {read:>c$}  {jobs:>d$}  {waiting:>e$}  {retrying:>f$}  {lanes}"
        ))?;
    }
    for dataset in datasets {
        if let Some(reason) = &dataset.reason {
            stdout::write_line(format_args!("{} is {}: {reason}", dataset.dataset, dataset.source_state().as_str()))?;
        }
    }
    Ok(())
}

fn summary_json(dataset: &DatasetSummary) -> Value {
    json!({
        "dataset": dataset.dataset, "state": dataset.source_state(), "reason": dataset.reason,
        "read": dataset.counts.seen, "jobs": dataset.counts.jobs, "bytes": dataset.counts.bytes,
        "waiting": dataset.waiting, "retrying": dataset.retrying, "lanes": dataset.lanes, "lanes_done": dataset.lanes_done,
    })
}
