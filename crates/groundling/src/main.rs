//! `groundling`: annotates image archives with grounded text.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod args;
mod commands;
mod enqueue_args;
mod files;
mod logging;
mod model_dir;
mod report;
mod settings;
mod sources;
mod stderr;
mod stdout;

use std::process::ExitCode;

use args::{Arguments, Command};
use broker::causes::causes;
use clap::Parser;
use stdout::StdoutError;
use worker::settings_check::SettingsProblems;

/// As a shell reports a program that SIGPIPE has ended, which is what most programs do when their reader leaves.
const STDOUT_CLOSED: u8 = 128 + 13;

/// Something was asked for that cannot be done as asked: arguments or settings. The exit code is 2, as for clap's own errors.
#[derive(Debug)]
struct Misuse(anyhow::Error);

impl std::fmt::Display for Misuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&causes(self.0.as_ref()))
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
    logging::start(&arguments);
    let ended = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from).and_then(
        |runtime| {
            let ended = runtime.block_on(run(arguments));
            // What is left on other threads nobody waits for any more: a decoder that does not stop, above all.
            runtime.shutdown_background();
            ended
        },
    );
    let (code, messages) = match ended {
        Ok(Outcome::Done) => (ExitCode::SUCCESS, Vec::new()),
        Ok(Outcome::PartlyFailed) => (ExitCode::from(1), Vec::new()),
        Err(error) if matches!(error.downcast_ref(), Some(StdoutError::Closed)) => {
            (ExitCode::from(STDOUT_CLOSED), Vec::new())
        }
        Err(error) => (ExitCode::from(if error.is::<Misuse>() { 2 } else { 1 }), messages(&error)),
    };
    stderr::finish(&messages);
    code
}

/// An error as messages for the user, one for each problem that was found in the settings.
fn messages(error: &anyhow::Error) -> Vec<String> {
    let problems = error.downcast_ref::<Misuse>().and_then(|misuse| misuse.0.downcast_ref::<SettingsProblems>());
    match problems {
        Some(problems) => problems.0.iter().map(|problem| format!("groundling: {problem}")).collect(),
        None => vec![format!("groundling: {}", causes(error.as_ref()))],
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<Outcome> {
    let settings = &arguments.settings;
    match arguments.command {
        Command::Worker(given) => commands::worker::run(given, settings.as_deref()).await,
        Command::Setup(given) => commands::setup::run(given, settings.as_deref()).await,
        Command::Enqueue(given) => commands::enqueue::run(given, settings.as_deref()).await,
        Command::Annotate(given) => commands::annotate::run(given, settings.as_deref()).await,
        Command::Demo(given) => commands::demo::run(given).await,
        Command::Bench(given) => commands::bench::run(&given).await,
        Command::Inspect(given) => commands::inspect::run(given),
    }
}
