//! `groundling setup`: creates the streams and consumers.

use std::path::Path;

use broker::connection;
use broker::events_setup::setup_events;
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
        migration.apply(connection.broker(&nats), &streams).await?;
    }
    let mut report = setup::setup(connection.broker(&nats), &streams).await?;
    let events = setup_events(connection.broker(&nats), &streams, &subjects).await?;
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
    for difference in differences {
        stderr::message!("groundling: {difference}");
    }
    for error in errors {
        stderr::message!("groundling: workers will not start: {error}");
    }
    Ok(if report.is_ready() && is_ready { Outcome::Done } else { Outcome::PartlyFailed })
}
