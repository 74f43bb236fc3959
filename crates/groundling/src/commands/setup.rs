//! `groundling setup`: streams and consumer.

use std::path::Path;

use worker::connection;
use worker::setup::{self, SetupReport};

use crate::Outcome;
use crate::args::SetupArgs;
use crate::settings::Settings;

pub(crate) async fn run(args: SetupArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let (nats, streams) = Settings::load(settings)?.with_stores(&args.stores).for_setup()?;
    let connection = connection::open(&nats, "groundling setup").await?;
    let report = setup::setup(connection.broker(&nats), &streams).await?;
    let SetupReport { created, found, missing, differences } = &report;
    for (state, things) in [("created", created), ("found", found), ("missing", missing)] {
        for thing in things {
            println!("{state} {thing}");
        }
    }
    for difference in differences {
        eprintln!("groundling: {difference}");
    }
    Ok(if report.is_ready() { Outcome::Done } else { Outcome::PartlyFailed })
}
