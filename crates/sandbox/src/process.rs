//! A child process that never outlives its owner.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::SandboxError;

/// How often a state that gives no signal is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(10);
/// How long `stop` waits after SIGTERM: SeaweedFS needs about 2 s to close its volumes.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long a drop may hold up its thread before SIGKILL; the NATS server needs some 15 ms.
const DROP_GRACE: Duration = Duration::from_millis(500);
/// How much of the log goes into an error.
const LOG_TAIL_BYTES: u64 = 4096;

/// A running server, its watchdog and its log.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    name: &'static str,
    child: Child,
    /// Reads a pipe that only this process can close: when it dies, however that happens, the watchdog kills the
    /// server. (The kernel's own parent-death signal can be asked for only in unsafe code.)
    watchdog: Child,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts `command` in a process group of its own, so that Ctrl-C reaches only this process, which then stops
    /// its servers in order.
    pub(crate) fn spawn(name: &'static str, command: &mut Command, home: &Path) -> Result<Self, SandboxError> {
        let log = home.join(format!("{name}.log"));
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(SandboxError::io(format!("open the log {}", log.display())))?;
        let err = out.try_clone().map_err(SandboxError::io(format!("open the log {} twice", log.display())))?;
        let mut child = command
            // Credentials and settings of the caller's environment must not change what the server does.
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
            Err(source) => {
                kill_and_reap(&mut child);
                Err(SandboxError::Io { what: format!("start the watchdog of {name}"), cause: source })
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of the log, for error texts.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log).unwrap_or_else(|error| format!("(the log {} cannot be read: {error})", self.log.display()))
    }

    /// Asks `ready` again and again until it has an answer, the process ends, or `limit` has passed.
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
            if let Some(answer) = ready().await {
                return Ok(answer);
            }
            if start.elapsed() > limit {
                return Err(SandboxError::NotReady { name: self.name, waited: limit, log: self.log_tail() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// SIGKILL, and the end of the process is waited for.
    pub(crate) fn kill(mut self) {
        kill_and_reap(&mut self.child);
    }

    /// SIGTERM, then SIGKILL when the process takes too long.
    pub(crate) async fn stop(mut self) -> Result<(), SandboxError> {
        self.terminate();
        let deadline = Instant::now() + STOP_GRACE;
        while self.exit_status()?.is_none() {
            if Instant::now() > deadline {
                tracing::warn!(server = self.name, "did not end after SIGTERM and is killed");
                kill_and_reap(&mut self.child);
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn exit_status(&mut self) -> Result<Option<ExitStatus>, SandboxError> {
        self.child.try_wait().map_err(SandboxError::io(format!("ask for the state of {}", self.name)))
    }

    fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // Fails only for a process that has ended; there is nobody to tell then.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // The watchdog goes first: once the server was waited for, its number may become that of another process.
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
    // Both fail only for a process that has ended.
    let _ = child.kill();
    // `wait` closes the pipe of a child that has one, so the order matters: killed first, then waited for.
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
