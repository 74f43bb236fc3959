//! `groundling dry-run`: checks everything that a worker needs, and changes nothing.

mod model;
mod nats;
mod report;
mod store;

use std::path::Path;

use crate::args::DryRunArgs;
use crate::exit::Outcome;
use crate::settings::Settings;
use report::Report;

pub(crate) async fn run(args: DryRunArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let settings = Settings::load(settings)?.with_model(&args.model).with_stores(&args.stores);
    let for_worker = settings.for_worker()?;
    let mut report = Report::new(args.format);
    let slots = model::check(&settings, &mut report).await?;
    nats::check(&for_worker, &settings.event_subjects()?, slots, args.workers, &mut report).await?;
    store::check(&for_worker.s3, args.object.as_deref(), &mut report).await?;
    check_telemetry(&settings, &mut report).await?;
    report.finish(slots)
}

async fn check_telemetry(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let probes = match telemetry::probe::probe(&settings.telemetry, |name| std::env::var(name).ok()).await {
        Ok(probes) => probes,
        Err(error) => return report.problem("telemetry", error),
    };
    for probe in &probes {
        let (signal, endpoint) = (probe.signal, &probe.endpoint);
        match &probe.result {
            Ok(()) => report.ok("telemetry", format_args!("{signal} are accepted at {endpoint}"))?,
            Err(cause) => report.warning(
                "telemetry",
                format_args!("{signal} cannot be exported to {endpoint}: {cause}; workers run without, but check telemetry.endpoint, telemetry.protocol and telemetry.headers, and that the collector runs"),
            )?,
        }
    }
    if probes.is_empty() { report.ok("telemetry", "nothing is exported (telemetry.endpoint is unset)") } else { Ok(()) }
}
