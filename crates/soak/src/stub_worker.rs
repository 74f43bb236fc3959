//! `soak worker`: the worker with the stub in the engine's place.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use kosmos2::checkpoint::ModelIdentity;
use serde::Deserialize;
use worker::settings::{NatsSettings, S3Settings, StreamSettings, WorkerSettings};
use worker::{Events, Settings, Step, WorkerParts};

use crate::stub::Stub;

/// What the stub's annotations say of their model.
pub const STUB_MODEL: &str = "stub";
/// How long the stub's device takes for a request.
const PACE: Duration = Duration::from_millis(3);

/// The sections of a settings file that are the worker's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sections {
    nats: NatsSettings,
    streams: StreamSettings,
    s3: S3Settings,
    worker: WorkerSettings,
}

/// A step at which the process is to abort, and how often it is let pass before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortAt {
    /// The step.
    pub step: Step,
    /// Times to pass it.
    pub after: u32,
}

/// Works until SIGTERM, or until standard input closes: a worker must not outlive the test that started it.
///
/// # Errors
/// As [`worker::run`].
pub async fn run(settings: &Path, abort_at: Option<AbortAt>) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(settings).with_context(|| settings.display().to_string())?;
    let read = toml::from_str(&text).with_context(|| settings.display().to_string());
    let Sections { nats, streams, s3, worker } = read?;
    let settings = Settings { nats, streams, s3, worker };
    let shutdown = worker::signals::shutdown_by_signals(|| {})?;
    std::thread::spawn(leave_with_the_test);
    let events = match abort_at {
        None => Events::none(),
        Some(abort_at) => aborting(abort_at),
    };
    let model = ModelIdentity { name: STUB_MODEL.into(), revision: None, digest: STUB_MODEL.into() };
    let parts = WorkerParts { settings, engine: Arc::new(Stub::new(PACE)), model, events };
    worker::run(parts, shutdown).await.map(drop).map_err(|error| anyhow!(error))
}

/// A worker started by hand on a terminal goes on until Ctrl-D.
#[expect(clippy::disallowed_methods, reason = "the test that started this process has died; nobody waits for an order")]
fn leave_with_the_test() {
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    std::process::exit(3);
}

fn aborting(abort_at: AbortAt) -> Events {
    let left = AtomicU32::new(abort_at.after);
    Events::none().with_steps(move |step| {
        if step == abort_at.step
            && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err()
        {
            // As SIGKILL would: nothing is unwound, nothing is flushed.
            std::process::abort();
        }
    })
}
