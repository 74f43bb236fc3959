//! A child process that ends with its owner.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::SandboxError;

/// Interval for polling.
pub(crate) const POLL: Duration = Duration::from_millis(10);
/// How long `stop` waits after SIGTERM. SeaweedFS needs about 2 s to close its volumes.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long a drop waits before SIGKILL. The NATS server needs about 15 ms.
const DROP_GRACE: Duration = Duration::from_millis(500);
/// Bytes of the log in an error.
const LOG_TAIL_BYTES: u64 = 4096;

/// A running server, its watchdog and its log.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    name: &'static str,
    child: Child,
    /// Reads a pipe that is closed when this process ends in any way, and then kills the server. (The parent-death signal
    /// of the kernel would need unsafe code.)
    watchdog: Child,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts `command` in a process group of its own, so that Ctrl-C reaches only this process, which then stops its
    /// servers in order.
    pub(crate) fn spawn(name: &'static str, command: &mut Command, home: &Path) -> Result<Self, SandboxError> {
        Self::spawn_with_log(name, command, home, home.join(format!("{name}.log")))
    }

    /// Like [`Self::spawn`], with another log file than one in `home`.
    pub(crate) fn spawn_with_log(
        name: &'static str,
        command: &mut Command,
        home: &Path,
        log: PathBuf,
    ) -> Result<Self, SandboxError> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(SandboxError::io(format!("open the log {}", log.display())))?;
        let err = out.try_clone().map_err(SandboxError::io(format!("open the log {} twice", log.display())))?;
        let mut child = command
            // The caller's environment must not influence the server.
            .env_clear()
            .env("HOME", home)
            .env("TMPDIR", home)
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(SandboxError::io(format!("start {name}")))?;
        match watch(child.id()) {
            Ok(watchdog) => Ok(Self { name, child, watchdog, log }),
            Err(cause) => {
                kill_and_reap(&mut child);
                Err(SandboxError::Io { what: format!("start the watchdog of {name}"), cause })
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The end of the log, for errors.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log).unwrap_or_else(|error| format!("(the log {} cannot be read: {error})", self.log.display()))
    }

    /// Polls `ready` until it returns a value, the process exits, or `limit` has passed.
    pub(crate) async fn wait_until<T, F>(&mut self, limit: Duration, mut ready: F) -> Result<T, SandboxError>
    where
        F: AsyncFnMut() -> Option<T>,
    {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exit_status()? {
                return Err(SandboxError::EndedEarly {
                    name: self.name,
                    status: status.to_string(),
                    log: self.log_tail(),
                });
            }
            if let Some(value) = ready().await {
                return Ok(value);
            }
            if start.elapsed() > limit {
                return Err(SandboxError::NotReady { name: self.name, waited: limit, log: self.log_tail() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills the process (SIGKILL) and waits for it.
    pub(crate) fn kill(mut self) {
        kill_and_reap(&mut self.child);
    }

    /// Stops the process (SIGTERM, and SIGKILL if that takes too long).
    pub(crate) async fn stop(mut self) -> Result<(), SandboxError> {
        self.terminate();
        let deadline = Instant::now() + STOP_GRACE;
        while self.exit_status()?.is_none() {
            if Instant::now() > deadline {
                tracing::warn!(server = self.name, "did not exit after SIGTERM; killing it");
                kill_and_reap(&mut self.child);
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn exit_status(&mut self) -> Result<Option<ExitStatus>, SandboxError> {
        self.child.try_wait().map_err(SandboxError::io(format!("get the state of {}", self.name)))
    }

    fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // Fails only for a process that has exited.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // The watchdog first: once the server has been waited for, its process id may belong to another process.
        kill_and_reap(&mut self.watchdog);
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.terminate();
        let deadline = Instant::now() + DROP_GRACE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                kill_and_reap(&mut self.child);
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

fn watch(pid: u32) -> std::io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", "read -r _; kill -KILL \"$0\"", &pid.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

fn kill_and_reap(child: &mut Child) {
    // Both fail only for a process that has exited.
    let _ = child.kill();
    // Kill first: `wait` closes the pipe of the watchdog, which would then kill the server.
    let _ = child.wait();
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = fs::metadata(path)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_string())
}
