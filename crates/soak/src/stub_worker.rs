//! `soak worker`: a worker with the stub engine.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use kosmos2::checkpoint::ModelIdentity;
use serde::Deserialize;
use worker::settings::{NatsSettings, S3Settings, StreamSettings, WorkerSettings};
use worker::{Events, Settings, Step, WorkerParts, WorkerTelemetry};

use crate::stub_engine::StubEngine;

/// The name and digest of the model in the stub's annotations.
pub const STUB_MODEL: &str = "stub";
/// How long the stub takes for a request, unless the command line says otherwise.
pub const REQUEST_TIME: Duration = Duration::from_millis(3);

/// How long a wedged stub may make no progress.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// The sections of a settings file that a worker needs.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Sections {
    pub(crate) nats: NatsSettings,
    pub(crate) streams: StreamSettings,
    pub(crate) s3: S3Settings,
    pub(crate) worker: WorkerSettings,
}

/// Reads a settings file.
pub(crate) fn read_settings(file: &Path) -> anyhow::Result<Sections> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    toml::from_str(&text).with_context(|| file.display().to_string())
}

/// A step at which the process aborts, and how often it passes the step before that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortAt {
    /// The step.
    pub step: Step,
    /// How often the step is passed before the abort.
    pub after: u32,
}

/// What a stub does besides answering requests.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// How long it takes for a request.
    pub request_time: Duration,
    /// Where the process aborts.
    pub abort_at: Option<AbortAt>,
    /// The number of requests after which its device stops for ever.
    pub wedge_after: Option<usize>,
}

/// Runs a worker until SIGTERM, or until its device is stalled, or until standard input closes: it must not outlive the
/// test that started it.
///
/// # Errors
/// If the settings cannot be read, and those of [`worker::run`].
pub async fn run(settings: &Path, behaviour: Behaviour) -> anyhow::Result<()> {
    let Behaviour { request_time, abort_at, wedge_after } = behaviour;
    let Sections { nats, streams, s3, worker } = read_settings(settings)?;
    let settings = Settings { nats, streams, s3, worker };
    let shutdown = worker::signals::shutdown_by_signals(|| {})?;
    std::thread::spawn(exit_when_stdin_closes);
    let events = match abort_at {
        None => Events::none(),
        Some(abort_at) => aborting(abort_at),
    };
    let model = ModelIdentity { name: STUB_MODEL.into(), revision: None, digest: STUB_MODEL.into() };
    let mut engine = StubEngine::new(request_time);
    if let Some(answered) = wedge_after {
        engine = engine.with_wedge(answered, STALL_TIMEOUT);
    }
    let parts = WorkerParts { settings, engine: Arc::new(engine), model, events, telemetry: WorkerTelemetry::off() };
    worker::run(parts, shutdown).await.map(drop).map_err(|error| anyhow!(error))
}

/// A worker that was started on a terminal runs until Ctrl-D.
#[expect(
    clippy::disallowed_methods,
    reason = "the test that started this process has ended, so no orderly shutdown is needed"
)]
fn exit_when_stdin_closes() {
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    std::process::exit(3);
}

fn aborting(abort_at: AbortAt) -> Events {
    let remaining = AtomicU32::new(abort_at.after);
    Events::none().with_steps(move |step| {
        if step == abort_at.step
            && remaining.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1)).is_err()
        {
            // Like SIGKILL: nothing is unwound or flushed.
            std::process::abort();
        }
    })
}
