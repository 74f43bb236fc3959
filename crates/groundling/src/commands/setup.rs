//! `groundling setup`: creates the streams and consumers.

use std::path::Path;

use broker::connection;
use broker::events_setup::{check_events, setup_events};
use broker::migration::Migration;
use broker::setup::{self, SetupReport};

use crate::args::{SetupArgs, StoreArgs};
use crate::exit::Outcome;
use crate::settings::Settings;
use crate::{stderr, stdout};

pub(crate) async fn run(args: SetupArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let flags = StoreArgs { nats_url: args.nats_url, s3_endpoint: None };
    let settings = Settings::load(settings)?.with_stores(&flags);
    let subjects = settings.event_subjects()?;
    let (nats, streams) = settings.for_setup()?;
    let connection = connection::open(&nats, "groundling setup").await?;
    if args.migrate {
        let mut migration = Migration::plan(connection.broker(&nats), &streams).await?;
        migration.plan_events(connection.broker(&nats), &streams, &subjects).await?;
        for step in migration.steps() {
            stdout::write_line(format_args!("migrate {step}"))?;
        }
        for change in migration.postponed() {
            stderr::message!("groundling: {change}");
        }
        migration.apply(connection.broker(&nats), &streams).await?;
    }
    let broker = connection.broker(&nats);
    let (mut report, events) = if args.check {
        (setup::check(&broker, &streams).await?, check_events(&broker, &streams, &subjects).await?)
    } else {
        (setup::setup(&broker, &streams).await?, setup_events(&broker, &streams, &subjects).await?)
    };
    for error in &events.errors {
        stderr::message!("groundling: groundling ingest will not start: {error}");
    }
    let is_ready = events.is_ready();
    report.created.extend(events.created);
    report.found.extend(events.found);
    report.missing.extend(events.missing);
    report.differences.extend(events.differences);
    let SetupReport { created, found, missing, differences, errors } = &report;
    for (state, things) in [("created", created), ("found", found), ("missing", missing)] {
        for thing in things {
            stdout::write_line(format_args!("{state} {thing}"))?;
        }
    }
    if args.check && !missing.is_empty() {
        stderr::message!("groundling: run `groundling setup` to create what is missing");
    }
    for difference in differences {
        stderr::message!("groundling: {difference}");
    }
    for error in errors {
        stderr::message!("groundling: workers will not start: {error}");
    }
    Ok(if report.is_ready() && is_ready { Outcome::Done } else { Outcome::PartlyFailed })
}
