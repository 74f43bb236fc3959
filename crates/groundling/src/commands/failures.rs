//! `groundling failures`: the dead letters.

pub(super) mod text;

use std::path::Path;

use anyhow::{anyhow, bail};
use archive::failures::{Failure, Failures, Replay, Replayed, Selection, drop_failures};
use archive::pool::Pool;
use broker::connection;
use serde_json::json;
use wire::subjects::Dataset;

use super::known_datasets::check_known;
use crate::args::{Format, StoreArgs};
use crate::bulk_args::{ChangeArgs, FailureFilterArgs, FailuresCommand, ListArgs, ShowArgs};
use crate::counted::counted;
use crate::exit::{Misuse, Outcome};
use crate::settings::Settings;
use crate::{stderr, stdout};

/// Failures that are read before they are replayed or removed.
const PAGE: usize = 100;

pub(crate) async fn run(command: FailuresCommand, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    match command {
        FailuresCommand::List(args) => list(args, settings).await,
        FailuresCommand::Show(args) => show(args, settings).await,
        FailuresCommand::Replay(args) => replay(args, settings).await,
        FailuresCommand::Drop(args) => remove(args, settings).await,
    }
}

async fn pool(settings: Option<&Path>, stores: &StoreArgs) -> anyhow::Result<Pool> {
    let (nats, streams) = Settings::load(settings)?.with_stores(stores).for_setup()?;
    let client = connection::connect(&nats, "groundling failures").await?;
    Ok(Pool::new(&client, &nats, streams))
}

fn selection(args: &FailureFilterArgs) -> anyhow::Result<Selection> {
    let dataset = args
        .dataset
        .as_ref()
        .map(|name| name.parse::<Dataset>().map_err(|error| Misuse(anyhow!("--dataset: {error}"))));
    Ok(Selection { dataset: dataset.transpose()?, reason: args.reason, since: args.since, limit: args.limit })
}

async fn list(args: ListArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let selection = selection(&args.filter)?;
    let pool = pool(settings, &args.stores).await?;
    check_known(&pool, &selection.dataset).await?;
    let mut failures = Failures::open(&pool, selection).await?;
    while let Some(failure) = failures.next().await? {
        match args.format {
            Format::Json => stdout::write_json(&text::summary(&failure))?,
            Format::Text => stdout::write_line(format_args!("{}", text::line(&failure)))?,
        }
    }
    Ok(Outcome::Done)
}

async fn show(args: ShowArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let pool = pool(settings, &args.stores).await?;
    for (index, sequence) in args.sequences.iter().enumerate() {
        let failure = find(&pool, *sequence).await?;
        match args.format {
            Format::Json => stdout::write_json(&text::everything(&failure))?,
            Format::Text => {
                let separator = if index > 0 { "\n" } else { "" };
                stdout::write(format_args!("{separator}{}", text::lines(&failure)))?;
            }
        }
    }
    Ok(Outcome::Done)
}

async fn find(pool: &Pool, sequence: u64) -> anyhow::Result<Failure> {
    match Failures::find(pool, sequence).await? {
        Some(failure) => Ok(failure),
        None => bail!("there is no failure with the sequence {sequence}"),
    }
}

/// The failures of a command that changes something, a page at a time.
struct Chosen {
    pool: Pool,
    failures: Option<Failures>,
    sequences: Vec<u64>,
}

impl Chosen {
    async fn open(args: &ChangeArgs, settings: Option<&Path>) -> anyhow::Result<Self> {
        let selection = selection(&args.filter)?;
        let is_chosen = !args.sequences.is_empty() || args.all || selection.dataset.is_some();
        if !is_chosen {
            return Err(Misuse(anyhow!("give the sequences of failures, --dataset or --all")).into());
        }
        let pool = pool(settings, &args.stores).await?;
        check_known(&pool, &selection.dataset).await?;
        let failures = match args.sequences.is_empty() {
            true => Some(Failures::open(&pool, selection).await?),
            false => None,
        };
        Ok(Self { pool, failures, sequences: args.sequences.clone() })
    }

    /// The next ones; none after the last.
    async fn page(&mut self) -> anyhow::Result<Vec<Failure>> {
        let mut page = Vec::new();
        while page.len() < PAGE {
            let next = match &mut self.failures {
                Some(failures) => failures.next().await?,
                None if self.sequences.is_empty() => None,
                None => Some(find(&self.pool, self.sequences.remove(0)).await?),
            };
            match next {
                Some(failure) => page.push(failure),
                None => break,
            }
        }
        Ok(page)
    }
}

async fn replay(args: ChangeArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let mut chosen = Chosen::open(&args, settings).await?;
    let replay = Replay::open(&chosen.pool).await?;
    let (mut done, mut before, mut impossible) = (0_u64, 0_u64, 0_u64);
    loop {
        let page = chosen.page().await?;
        if page.is_empty() {
            break;
        }
        for (sequence, replayed) in replay.replay_all(&page).await? {
            match replayed {
                Replayed::Done => done += 1,
                Replayed::Before => before += 1,
                Replayed::Impossible(why) => {
                    impossible += 1;
                    stderr::message!("groundling: the failure {sequence} cannot be replayed: {why}");
                }
            }
        }
    }
    match args.format {
        Format::Json => {
            stdout::write_json(&json!({"replayed": done, "replayed_before": before, "not_replayed": impossible}))?;
        }
        Format::Text => stdout::write_line(format_args!(
            "{} replayed, {before} had been replayed before, {impossible} cannot be replayed",
            counted(done, "failure")
        ))?,
    }
    Ok(if impossible == 0 { Outcome::Done } else { Outcome::PartlyFailed })
}

async fn remove(args: ChangeArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let mut chosen = Chosen::open(&args, settings).await?;
    let mut removed = 0;
    loop {
        let page = chosen.page().await?;
        if page.is_empty() {
            break;
        }
        removed += drop_failures(&chosen.pool, &page).await?;
    }
    match args.format {
        Format::Json => stdout::write_json(&json!({"dropped": removed}))?,
        Format::Text => stdout::write_line(format_args!("{} dropped", counted(removed, "failure")))?,
    }
    Ok(Outcome::Done)
}
