//! `groundling`: annotates pictures with grounded text.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod annotate_args;
mod arg_hints;
mod arg_values;
mod args;
mod bulk_args;
mod commands;
mod counted;
mod enqueue_args;
mod errors;
mod exit;
mod export_args;
mod files;
mod index_args;
mod job_tasks;
mod logging;
mod model_args;
mod model_dir;
mod model_supply;
mod own_store;
mod page_pictures;
mod progress;
mod report;
mod review_args;
mod review_items;
mod settings;
mod sources;
mod stderr;
mod stdout;
mod task_syntax;

use std::process::ExitCode;

use args::{Arguments, Command, LogFormat};
use clap::Parser;
use errors::plain;
use exit::{Misuse, Outcome};
use mimalloc::MiMalloc;
use stdout::StdoutError;
use telemetry::LogLayer;
use worker::WorkerError;
use worker::settings_validation::InvalidSettings;
use worker::worker_error::ENGINE_STALLED;

/// Annotations consist of many small texts: in a profile of a Parquet export, the allocator of glibc took a third of the
/// time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The status that a shell reports for a program killed by SIGPIPE, as most programs are when their reader exits.
const STDOUT_CLOSED: u8 = 128 + 13;

fn main() -> ExitCode {
    let arguments =
        Arguments::try_parse().unwrap_or_else(|error| arg_hints::with_hint(error, std::env::args_os()).exit());
    let log_format = arguments.log_format;
    let logs = logging::start(&arguments);
    let ended = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from).and_then(
        |runtime| {
            let ended = runtime.block_on(run(arguments, logs));
            // Does not wait for blocking threads: a decoder may run for a long time.
            runtime.shutdown_background();
            ended
        },
    );
    let (code, messages) = match ended {
        Ok(Outcome::Done) => (ExitCode::SUCCESS, Vec::new()),
        Ok(Outcome::PartlyFailed) => (ExitCode::from(1), Vec::new()),
        Ok(Outcome::Interrupted { signal }) => (ExitCode::from(128 + signal), Vec::new()),
        Err(error) if matches!(error.downcast_ref(), Some(StdoutError::Closed)) => {
            (ExitCode::from(STDOUT_CLOSED), Vec::new())
        }
        Err(error) if matches!(error.downcast_ref(), Some(WorkerError::EngineStalled { .. })) => {
            finish(&messages(&error), log_format);
            // An exit in order could wait for the device.
            kernels::process::exit_immediately(ENGINE_STALLED)
        }
        Err(error) => (ExitCode::from(if error.is::<Misuse>() { 2 } else { 1 }), messages(&error)),
    };
    finish(&messages, log_format);
    code
}

/// Writes the last messages in the format of the log, so that a reader of JSON lines can read them too.
fn finish(messages: &[String], format: LogFormat) {
    if format == LogFormat::Json && tracing::enabled!(tracing::Level::ERROR) {
        messages.iter().for_each(|message| tracing::error!("{message}"));
        return stderr::finish(&[]);
    }
    let lines: Vec<String> = messages.iter().map(|message| format!("groundling: {message}")).collect();
    stderr::finish(&lines);
}

/// An error as messages for the user: one for each problem with the settings, or a single one.
fn messages(error: &anyhow::Error) -> Vec<String> {
    let problems = error.downcast_ref::<Misuse>().and_then(|misuse| misuse.0.downcast_ref::<InvalidSettings>());
    match problems {
        Some(problems) => problems.0.iter().map(ToString::to_string).collect(),
        None => vec![plain(error.as_ref())],
    }
}

async fn run(arguments: Arguments, logs: LogLayer) -> anyhow::Result<Outcome> {
    let settings = &arguments.settings;
    match arguments.command {
        Command::Worker(given) => commands::worker::run(given, settings.as_deref(), &logs).await,
        Command::Setup(given) => commands::setup::run(given, settings.as_deref()).await,
        Command::Ingest(given) => commands::ingest::run(given, settings.as_deref(), &logs).await,
        Command::Enqueue(given) => commands::enqueue::run(given, settings.as_deref()).await,
        Command::Datasets(given) => commands::datasets::run(given, settings.as_deref()).await,
        Command::Export(given) => commands::export::run(given, settings.as_deref()).await,
        Command::Index(given) => commands::index::run(given, settings.as_deref()).await,
        Command::Review(given) => commands::review::run(given, settings.as_deref()).await,
        Command::Diff(given) => commands::diff::run(given, settings.as_deref()).await,
        Command::Status(given) => commands::status::run(given, settings.as_deref()).await,
        Command::Failures(given) => commands::failures::run(given, settings.as_deref()).await,
        Command::Reconcile(given) => commands::reconcile::run(given, settings.as_deref()).await,
        Command::Annotate(given) => commands::annotate::run(*given, settings.as_deref()).await,
        Command::Demo(given) => commands::demo::run(given).await,
        Command::Bench(given) => commands::bench::run(given, settings.as_deref()).await,
        Command::Inspect(given) => commands::inspect::run(given, settings.as_deref()).await,
        Command::Check(given) => commands::check::run(&given, settings.as_deref()),
        Command::DryRun(given) => commands::dry_run::run(given, settings.as_deref()).await,
        Command::Scaler(given) => commands::scaler::run(given, settings.as_deref()).await,
        Command::Settings(given) => commands::settings::run(&given),
    }
}
