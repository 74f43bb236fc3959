//! `groundling datasets`: lists, pauses, resumes and cancels datasets.

use std::path::Path;

use archive::feed::{DatasetState, DatasetSummary, Datasets};
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
            let removed = open().await?.cancel(&dataset, &by).await?;
            match args.format {
                Format::Json => stdout::write_json(&json!({
                    "dataset": dataset.as_str(), "state": "cancelled", "removed_jobs": removed,
                }))?,
                Format::Text => {
                    stdout::write_line(format_args!("{dataset}: cancelled, {removed} waiting jobs removed"))?;
                }
            }
        }
    }
    Ok(Outcome::Done)
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
            state_text(dataset).to_owned(),
            dataset.counts.seen.to_string(),
            dataset.counts.jobs.to_string(),
            dataset.waiting.to_string(),
            format!("{}/{}", dataset.lanes_done, dataset.lanes),
        ]
    });
    let header = ["dataset", "state", "objects", "jobs", "waiting", "lanes"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3, 4].map(width);
    for row in &rows {
        let [dataset, state, objects, jobs, waiting, lanes] = row;
        let [a, b, c, d, e] = widths;
        stdout::write_line(format_args!(
            "{dataset:<a$}  {state:<b$}  {objects:>c$}  {jobs:>d$}  {waiting:>e$}  {lanes}"
        ))?;
    }
    for dataset in datasets {
        if let Some(reason) = &dataset.reason {
            stdout::write_line(format_args!("{} is {}: {reason}", dataset.dataset, state_text(dataset)))?;
        }
    }
    Ok(())
}

fn state_text(dataset: &DatasetSummary) -> &'static str {
    match dataset.state {
        DatasetState::Cancelled => "cancelled",
        _ if dataset.is_complete() => "complete",
        DatasetState::Paused => "paused",
        DatasetState::Active => "active",
    }
}

fn summary_json(dataset: &DatasetSummary) -> Value {
    json!({
        "dataset": dataset.dataset, "state": state_text(dataset), "reason": dataset.reason,
        "objects": dataset.counts.seen, "jobs": dataset.counts.jobs, "bytes": dataset.counts.bytes,
        "waiting": dataset.waiting, "lanes": dataset.lanes, "lanes_done": dataset.lanes_done,
    })
}
