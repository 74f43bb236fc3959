//! `groundling demo`: the whole pipeline on one machine, from pictures in a bucket to an HTML page of annotations.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use engine::EngineOptions;
use indicatif::{ProgressBar, ProgressStyle};
use kosmos2::checkpoint::ModelIdentity;
use sandbox::DemoData;
use worker::WorkerTelemetry;
use worker::events::JobEvent;

use super::servers::Servers;
use crate::args::DemoArgs;
use crate::exit::Outcome;
use crate::model_dir;
use crate::settings::ModelSettings;
use crate::stderr::{self, escape_control};

mod show;

pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<Outcome> {
    let data = DemoData::locate()?;
    let started = Instant::now();
    let servers = Servers::start("demo").await?;
    for scene in &data.scenes {
        let bytes = std::fs::read(&scene.path).with_context(|| scene.path.display().to_string())?;
        let picture = servers.upload(&scene.file_name, bytes.into()).await?;
        servers.enqueue(&scene.file_name, picture, None).await?;
    }
    let jobs = data.scenes.len();
    stderr::message!("{jobs} pictures uploaded, {jobs} jobs enqueued");

    let failures = work(&data.model_dir, &servers, jobs).await?;
    let annotations = servers.annotations().await?;
    ensure!(
        annotations.len() == jobs - failures,
        "annotations are missing from the stream: expected {}, found {}",
        jobs - failures,
        annotations.len()
    );
    show::print(&annotations, args.format)?;
    let page = show::write(&annotations, &data, &args.out)?;
    servers.stop().await?;
    let seconds = started.elapsed().as_secs_f64();
    stderr::message!(
        "{} of {jobs} pictures annotated in {seconds:.1} s; pictures with boxes: {}; page: {}",
        annotations.len(),
        args.out.display(),
        page.display()
    );
    Ok(if failures == 0 { Outcome::Done } else { Outcome::PartlyFailed })
}

/// Runs a worker until every job has ended, and returns the number of failed jobs.
async fn work(model_dir: &Path, servers: &Servers, jobs: usize) -> anyhow::Result<usize> {
    let model = model_dir::open(model_dir, &ModelSettings::default())?;
    let engine = model_dir::start_engine(model, EngineOptions::default())?;
    let bar = progress_bar(jobs as u64);
    let show = |event: &JobEvent| match event {
        JobEvent::Finished { annotation, .. } => {
            let text = annotation.results.first().map(|result| escape_control(&result.text));
            bar.set_message(text.unwrap_or_default());
            bar.inc(1);
        }
        JobEvent::Failed { job_id, message, .. } => {
            report(&bar, &format!("groundling: {}: {message}", job_id.as_deref().unwrap_or_default()));
            bar.inc(1);
        }
        JobEvent::Retried { message, .. } => report(&bar, &format!("groundling: {message}; retrying")),
    };
    let failed = servers.work(engine, ModelIdentity::of_dir(model_dir)?, jobs, WorkerTelemetry::off(), show).await?;
    bar.finish_and_clear();
    Ok(failed)
}

/// Prints a message, above the progress bar if one is shown.
fn report(bar: &ProgressBar, message: &str) {
    if bar.is_hidden() {
        stderr::message!("{message}");
    } else {
        bar.println(escape_control(message));
    }
}

fn progress_bar(jobs: u64) -> ProgressBar {
    let bar = ProgressBar::new(jobs);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} {wide_msg}") {
        bar.set_style(style);
    }
    bar
}
