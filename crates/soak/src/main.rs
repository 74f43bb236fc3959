//! `soak run` starts a run; `soak worker`, `soak feeder` and `soak ingest` are its processes. `soak scale` and `soak
//! storage` measure.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, Parser, Subcommand};
use soak::faults::Fault;
use soak::scale::ScaleOptions;
use soak::stub_worker::{self, AbortAt, Behaviour};
use tracing_subscriber::EnvFilter;
use worker::worker_error::ENGINE_STALLED;
use worker::{Step, WorkerError};

/// Submits jobs, injects faults, and checks that every job ends exactly once.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run servers, workers and faults. The last line of output is a JSON object with the counts.
    Run(RunArguments),
    /// Run a worker with a stub in place of the model.
    Worker {
        /// Settings file, as for `groundling worker`.
        #[arg(long)]
        settings: PathBuf,
        /// Abort at a step of a job after passing it a number of times, for example `Fetched:3`.
        #[arg(long, value_parser = abort_at)]
        abort_at: Option<AbortAt>,
        /// Stop the stub for ever after it has answered this many requests.
        #[arg(long)]
        wedge_after: Option<usize>,
        /// How long the stub takes for a request, in milliseconds.
        #[arg(long, default_value_t = stub_worker::REQUEST_TIME.as_millis() as u64)]
        request_time: u64,
    },
    /// Measure the throughput of several numbers of workers with a stub in place of the model, and what a job costs.
    /// Prints a line of JSON for each number.
    Scale {
        /// Numbers of worker processes.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
        workers: Vec<usize>,
        /// How long the stub takes for a picture, in milliseconds.
        #[arg(long, default_value_t = 20)]
        request_time: u64,
        /// How long each measurement would take at the stub's rate, in seconds.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// Directory for logs.
        #[arg(long, default_value = "target/soak")]
        logs: PathBuf,
    },
    /// Measure what jobs and annotations take on the disk and in the memory of a NATS server. Prints a line of JSON for
    /// each kind, with and without message ids and compression.
    Storage {
        /// The number of messages.
        #[arg(long, default_value_t = 1_000_000)]
        messages: u64,
    },
    /// Turn events into jobs as `groundling ingest` does.
    Ingest {
        /// Settings file, as for `groundling ingest`.
        #[arg(long)]
        settings: PathBuf,
    },
    /// Feed a dataset as `groundling enqueue` does.
    Feeder {
        /// Settings file, as for `groundling enqueue`.
        #[arg(long)]
        settings: PathBuf,
        /// The dataset.
        #[arg(long)]
        dataset: String,
        /// The bucket of its objects.
        #[arg(long)]
        bucket: String,
    },
}

#[derive(Debug, Args)]
struct RunArguments {
    /// Number of jobs to submit.
    #[arg(long, default_value_t = 1000)]
    jobs: usize,
    /// Number of objects whose events are ingested, in addition to the jobs. Each has up to three events, in another order
    /// [default: a tenth of the jobs; none with --real and --only].
    #[arg(long)]
    events: Option<usize>,
    /// Number of faults to inject, in addition to those of the S3 store.
    #[arg(long, default_value_t = 40)]
    faults: usize,
    /// Random seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of NATS servers: 1, or 3 for a cluster.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    nodes: u8,
    /// Number of worker processes.
    #[arg(long, default_value_t = 3)]
    workers: usize,
    /// Run `groundling worker` with the small model, and compare its texts with the reference's.
    #[arg(long)]
    real: bool,
    /// A `groundling` of the previous release, which every second worker runs, to test an upgrade.
    #[arg(long, requires = "real")]
    previous: Option<PathBuf>,
    /// Inject only this fault: kill, freeze, terminate, cut, half-close, truncate, black-hole, throttle, crash,
    /// crash-leader, roll (a rolling restart), cut-routes, isolate, crash-store, restart-workers, skew-clock,
    /// fill-stream, exhaust-storage (of the account), recreate-consumer, change-consumer; stall, stall-in-body, drip,
    /// unavailable (of objects in a second dataset). `roll`, `cut-routes` and `isolate` need --nodes 3.
    #[arg(long, value_parser = named_fault)]
    only: Option<Fault>,
    /// Directory for logs.
    #[arg(long, default_value = "target/soak")]
    logs: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .log_internal_errors(false)
        .init();
    match go(Arguments::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            write_line(std::io::stderr(), &format!("soak: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn go(command: Command) -> anyhow::Result<ExitCode> {
    let run = match command {
        Command::Worker { settings, abort_at, wedge_after, request_time } => {
            let request_time = Duration::from_millis(request_time);
            let ended = stub_worker::run(&settings, Behaviour { request_time, abort_at, wedge_after }).await;
            return match ended {
                Err(error) if matches!(error.downcast_ref(), Some(WorkerError::EngineStalled { .. })) => {
                    write_line(std::io::stderr(), &format!("soak: {error:#}"));
                    Ok(ExitCode::from(ENGINE_STALLED))
                }
                ended => ended.map(|()| ExitCode::SUCCESS),
            };
        }
        Command::Feeder { settings, dataset, bucket } => {
            soak::feeder::run(&settings, &dataset, &bucket).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Scale { workers, request_time, seconds, logs } => {
            let options = ScaleOptions {
                workers,
                request_time: Duration::from_millis(request_time),
                duration: Duration::from_secs(seconds),
                soak: std::env::current_exe()?,
                logs: std::path::absolute(logs)?,
            };
            soak::scale::scale(&options, |result| {
                write_line(std::io::stdout(), &serde_json::json!(result).to_string());
            })
            .await?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Storage { messages } => {
            for variant in soak::storage::VARIANTS {
                let result = soak::storage::measure(variant, messages).await?;
                write_line(std::io::stdout(), &serde_json::json!(result).to_string());
            }
            return Ok(ExitCode::SUCCESS);
        }
        Command::Ingest { settings } => {
            soak::ingest::run(&settings).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Run(run) => run,
    };
    let soak = std::env::current_exe()?;
    let groundling = run.real.then(|| soak.with_file_name("groundling"));
    if let Some(groundling) = groundling.as_ref().filter(|groundling| !groundling.is_file()) {
        return Err(anyhow!("{} does not exist: build it with `cargo build -p groundling`", groundling.display()));
    }
    if run.nodes == 1 && run.only.is_some_and(Fault::needs_cluster) {
        return Err(anyhow!("this fault needs a cluster: add --nodes 3"));
    }
    let usual = if run.real || run.only.is_some() { 0 } else { run.jobs / 10 };
    let options = soak::Options {
        jobs: run.jobs,
        events: run.events.unwrap_or(usual),
        faults: run.faults,
        only: run.only,
        seed: run.seed,
        nodes: run.nodes.into(),
        workers: run.workers,
        groundling,
        previous: run.previous.map(std::path::absolute).transpose()?,
        soak,
        logs: std::path::absolute(run.logs)?,
    };
    let (summary, problems) = soak::run(&options).await?;
    for line in &problems {
        write_line(std::io::stderr(), line);
    }
    write_line(std::io::stdout(), &serde_json::to_string(&summary).context("could not encode the summary")?);
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ignores errors: a closed output must not end the run, and the exit code has the result too.
fn write_line(mut to: impl Write, line: &str) {
    let _ = writeln!(to, "{line}");
}

fn named_fault(text: &str) -> anyhow::Result<Fault> {
    let known = Fault::NAMED.into_iter().find(|(name, _)| *name == text);
    known.map(|(_, fault)| fault).with_context(|| {
        let names: Vec<&str> = Fault::NAMED.iter().map(|(name, _)| *name).collect();
        format!("{text} is not one of {}", names.join(", "))
    })
}

fn abort_at(text: &str) -> anyhow::Result<AbortAt> {
    let (step, after) = text.split_once(':').context("give a step and a number, for example Fetched:3")?;
    let known = Step::ALL.into_iter().find(|known| format!("{known:?}") == step);
    let step = known.with_context(|| format!("{step} is not one of {:?}", Step::ALL))?;
    Ok(AbortAt { step, after: after.parse()? })
}
