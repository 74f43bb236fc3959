//! The processes of a run.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// Starts a subcommand of the `soak` program that reads this settings file. The log is appended to, because the process
/// is killed and started again.
pub(crate) fn spawn(executable: &Path, arguments: &[&str], settings: &Path, log: &Path) -> anyhow::Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    Command::new(executable)
        .args(arguments)
        .arg("--settings")
        .arg(settings)
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| executable.display().to_string())
}

/// Sends a signal to a process.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    // Fails only for a process that has ended.
    let _ = id.and_then(Pid::from_raw).map(|pid| kill_process(pid, signal));
}

/// Terminates workers (SIGTERM) and waits until they have ended.
///
/// # Errors
/// If waiting for one fails.
pub(crate) async fn shut_down(workers: Vec<Child>) -> anyhow::Result<()> {
    for worker in &workers {
        signal(worker, Signal::TERM);
    }
    for mut worker in workers {
        // `wait` closes standard input, at which a worker exits without finishing its jobs.
        let _open = worker.stdin.take();
        worker.wait().await?;
    }
    Ok(())
}
