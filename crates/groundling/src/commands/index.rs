//! `groundling index`: a searchable database of annotations.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use archive::index::{Index, Progress, Snapshot, Target};
use archive::pool::Pool;
use broker::connection;
use serde_json::json;
use wire::subjects::Dataset;

use super::known_datasets;
use super::stop::stopped;
use crate::args::{Format, StoreArgs};
use crate::counted::counted;
use crate::exit::{Misuse, Outcome};
use crate::index_args::IndexArgs;
use crate::progress::{BarState, watched_with_bar};
use crate::settings::Settings;
use crate::{stderr, stdout};

/// How often a line is written without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

pub(crate) async fn run(args: IndexArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let target = Target::parse(&args.into).map_err(|error| Misuse(anyhow!("--into: {error}")))?;
    let datasets =
        args.dataset.iter().map(|name| name.parse::<Dataset>().map_err(|error| Misuse(anyhow!("--dataset: {error}"))));
    let mut datasets = datasets.collect::<Result<Vec<_>, _>>()?;
    datasets.sort_unstable();
    datasets.dedup();
    let flags = StoreArgs { nats_url: args.nats_url.clone(), s3_endpoint: None };
    let (nats, streams) = Settings::load(settings)?.with_stores(&flags).for_setup()?;
    let connection = connection::open(&nats, "groundling index").await?;
    let pool = Pool::new(&connection.client, &nats, streams);
    known_datasets::report(&pool, &datasets).await;
    let index = Index { pool, datasets, target: target.clone(), follow: args.follow };
    let (progress, started, signal) = (Progress::default(), Instant::now(), Cell::new(0));
    let stop = async { signal.set(stopped().await) };
    let mut shown = Snapshot::default();
    let state = || bar_state(progress.snapshot(), &mut shown);
    let summary = watched_with_bar(index.run(&progress, stop), LINE_INTERVAL, state).await?;
    let found = progress.snapshot();
    report(&args, &target, &found, started.elapsed())?;
    Ok(match (summary.is_interrupted, found.unreadable) {
        (true, _) => Outcome::Interrupted { signal: signal.get() },
        (false, 0) => Outcome::Done,
        (false, _) => Outcome::PartlyFailed,
    })
}

/// The state of the bar for the present progress; `shown` is the progress of the time before.
fn bar_state(now: Snapshot, shown: &mut Snapshot) -> BarState {
    BarState {
        position: now.sequence,
        length: now.last,
        line: format!(
            "{} annotations indexed, {} there already, sequence {} of {}",
            now.annotations,
            now.repeats(),
            now.sequence,
            now.last
        ),
        is_new: std::mem::replace(shown, now) != now,
    }
}

fn report(args: &IndexArgs, target: &Target, found: &Snapshot, elapsed: Duration) -> anyhow::Result<()> {
    let seconds = elapsed.as_secs_f64();
    let Snapshot { read, annotations, results, entities, boxes, unreadable, sequence, .. } = *found;
    if args.format == Format::Json {
        return stdout::write_json(&json!({
            "into": target.to_string(), "datasets": args.dataset, "read": read, "annotations": annotations,
            "results": results, "entities": entities, "boxes": boxes, "repeats": found.repeats(),
            "unreadable": unreadable, "sequence": sequence, "seconds": seconds,
        }));
    }
    if unreadable > 0 {
        stderr::message!("groundling: {} left out: not an annotation", counted(unreadable, "message"));
    }
    Ok(stdout::write_line(format_args!(
        "{target}: {}, {}, {} and {} added ({} there already; {} read in {seconds:.1} s)",
        counted(annotations, "annotation"),
        counted(results, "result"),
        counted(entities, "phrase"),
        counted(boxes, "box"),
        found.repeats(),
        counted(read, "message")
    ))?)
}
