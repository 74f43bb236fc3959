//! `groundling`: annotates image archives with grounded text.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod model_dir;
mod report;
mod settings;
mod sources;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use args::{Arguments, Command};
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Something was asked for that cannot be done as asked: arguments or settings. The exit code is 2, as for clap's own errors.
#[derive(Debug)]
struct Misuse(anyhow::Error);

impl std::fmt::Display for Misuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Misuse {}

/// What a command came to, short of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// All of it was done.
    Done,
    /// Part of it failed, and each failure has been told on stderr.
    PartlyFailed,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging(&arguments);
    let ended = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from).and_then(
        |runtime| {
            let ended = runtime.block_on(run(arguments));
            // What is left on other threads nobody waits for any more: a decoder that does not stop, above all.
            runtime.shutdown_background();
            ended
        },
    );
    match ended {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::PartlyFailed) => ExitCode::from(1),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr must not turn into a panic.
            let _ = writeln!(std::io::stderr(), "groundling: {error:#}");
            ExitCode::from(if error.is::<Misuse>() { 2 } else { 1 })
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<Outcome> {
    let settings = &arguments.settings;
    match arguments.command {
        Command::Worker(given) => commands::worker::run(given, settings.as_deref()).await,
        Command::Setup(given) => commands::setup::run(given, settings.as_deref()).await,
        Command::Annotate(given) => commands::annotate::run(given, settings.as_deref()).await,
        Command::Demo(given) => commands::demo::run(given).await,
        Command::Bench(given) => commands::bench::run(&given).await,
        Command::Inspect(given) => commands::inspect::run(given),
    }
}

/// `groundling … | head` closes stdout early, which is no fault.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}

/// Logs go to stderr; `RUST_LOG` chooses them, as it does for most Rust programs.
fn start_logging(arguments: &Arguments) {
    // Only the worker runs unwatched; elsewhere information would stand between a person and the result.
    let level = if matches!(arguments.command, Command::Worker(_)) { "info" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let log = log.with_ansi(std::io::stderr().is_terminal());
    match arguments.log_format {
        args::LogFormat::Text => log.init(),
        args::LogFormat::Json => log.json().init(),
    }
}
