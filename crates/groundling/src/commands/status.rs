//! `groundling status`: what each dataset is doing.

mod view;

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use archive::pool::Pool;
use archive::status::StatusReader;
use broker::connection;
use wire::subjects::Dataset;

use super::known_datasets::check_known;
use crate::args::Format;
use crate::bulk_args::StatusArgs;
use crate::exit::{Misuse, Outcome};
use crate::settings::Settings;
use crate::{stderr, stdout};

pub(crate) async fn run(args: StatusArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let datasets =
        args.dataset.iter().map(|name| name.parse::<Dataset>().map_err(|error| Misuse(anyhow!("--dataset: {error}"))));
    let datasets = datasets.collect::<Result<Vec<_>, _>>()?;
    let (nats, streams) = Settings::load(settings)?.with_stores(&args.stores).for_setup()?;
    let client = connection::connect(&nats, "groundling status").await?;
    let pool = Pool::new(&client, &nats, streams);
    check_known(&pool, &datasets).await?;
    let mut reader = StatusReader::new(pool, datasets, args.price_per_hour);
    if !args.watch {
        let status = reader.read().await?;
        match args.format {
            Format::Json => stdout::write_json(&status)?,
            Format::Text => stdout::write(format_args!("{}", view::view(&status)))?,
        }
        return Ok(Outcome::Done);
    }
    let redraws = std::io::stdout().is_terminal();
    let (mut lines, mut ticks) = (0, tokio::time::interval(Duration::from_secs_f64(args.interval)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let status = match reader.read().await {
            Ok(status) => status,
            Err(error) => {
                stderr::message!("groundling: {error}; trying again");
                lines = 0;
                continue;
            }
        };
        match args.format {
            Format::Json => stdout::write_json(&status)?,
            Format::Text => {
                let view = view::view(&status);
                // Moves up to the first line of the last view and clears everything from there on.
                let clear = if redraws && lines > 0 { format!("\x1b[{lines}A\x1b[J") } else { String::new() };
                lines = view.lines().count();
                stdout::write(format_args!("{clear}{view}"))?;
            }
        }
    }
}
