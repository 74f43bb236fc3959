//! The worker processes of a run.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::Signal;
use sandbox::ShiftedClock;
use tokio::process::{Child, Command};
use worker::Step;

use crate::child_process;

/// How long a worker may take to exit after SIGTERM: `shutdown_timeout`, and more on a busy machine.
const END_LIMIT: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How to start a worker.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable: `soak`, or `groundling`.
    pub executable: PathBuf,
    /// The directory of the small model, if the executable is `groundling`.
    pub model: Option<PathBuf>,
    /// `groundling` of the previous release, which every second worker runs.
    pub previous: Option<PathBuf>,
    /// The settings file.
    pub settings: PathBuf,
    /// The directory of the workers' logs.
    pub logs: PathBuf,
    /// The duplicate window of the streams.
    pub duplicate_window: Duration,
}

/// The worker processes. One that has ended is replaced.
#[derive(Debug)]
pub struct WorkerProcesses {
    program: Program,
    workers: Vec<Worker>,
    started: usize,
    clock: ShiftedClock,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    /// Seconds by which the clock is ahead. A replacement has the same.
    ahead: i64,
}

impl WorkerProcesses {
    /// Starts `size` workers.
    ///
    /// # Errors
    /// If the program does not start, or there is no C compiler for the shifted clocks.
    pub fn start(program: Program, size: usize) -> anyhow::Result<Self> {
        let mut pool = Self { program, workers: Vec::new(), started: 0, clock: ShiftedClock::build()? };
        for _ in 0..size {
            let worker = pool.spawn(0, None)?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// The number of workers.
    pub fn size(&self) -> usize {
        self.workers.len()
    }

    /// Replaces workers that have ended.
    ///
    /// # Errors
    /// If the program does not start.
    pub fn restart_ended(&mut self) -> anyhow::Result<()> {
        for i in 0..self.workers.len() {
            if self.workers[i].child.try_wait()?.is_some() {
                self.workers[i] = self.spawn(self.workers[i].ahead, None)?;
            }
        }
        Ok(())
    }

    /// Kills a worker (SIGKILL) and starts another, which aborts at `abort_at` ("step:times") if given.
    ///
    /// # Errors
    /// If the program does not start.
    pub async fn replace(&mut self, worker: usize, abort_at: Option<&str>) -> anyhow::Result<()> {
        self.workers[worker].child.kill().await?;
        self.workers[worker] = self.spawn(self.workers[worker].ahead, abort_at)?;
        Ok(())
    }

    /// Kills a worker (SIGKILL) and starts another, whose clock is this many seconds ahead.
    ///
    /// # Errors
    /// If the program does not start.
    pub async fn replace_with_clock(&mut self, worker: usize, ahead: i64) -> anyhow::Result<()> {
        self.workers[worker].ahead = ahead;
        self.replace(worker, None).await
    }

    /// Replaces each worker by one whose clock is this many seconds ahead and that aborts after it has published
    /// annotations. The next workers start only after the duplicate window of the streams.
    ///
    /// # Errors
    /// If the program does not start.
    pub async fn replace_after_duplicate_window(&mut self, ahead: &[i64]) -> anyhow::Result<()> {
        for (worker, ahead) in (0..self.workers.len()).zip(ahead) {
            self.workers[worker].ahead = *ahead;
            self.replace(worker, Some(&format!("{:?}:2", Step::AnnotationPublished))).await?;
        }
        // A worker may find no job.
        tokio::time::sleep(Duration::from_secs(5)).await;
        for worker in &mut self.workers {
            worker.child.kill().await?;
        }
        tokio::time::sleep(self.program.duplicate_window).await;
        self.restart_ended()
    }

    /// Terminates workers (SIGTERM), and replaces each once it has ended.
    ///
    /// # Errors
    /// If one does not end, or the program does not start.
    pub async fn restart(&mut self, workers: &[usize]) -> anyhow::Result<()> {
        for &worker in workers {
            self.terminate(worker);
        }
        for &worker in workers {
            let terminated = Instant::now();
            // Not with `wait`, which closes standard input.
            while self.workers[worker].child.try_wait()?.is_none() {
                if terminated.elapsed() > END_LIMIT {
                    bail!("a worker did not end within {END_LIMIT:?} after SIGTERM");
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            self.workers[worker] = self.spawn(self.workers[worker].ahead, None)?;
        }
        Ok(())
    }

    /// Terminates a worker (SIGTERM). It is replaced when it has ended.
    pub fn terminate(&self, worker: usize) {
        self.signal(worker, Signal::TERM);
    }

    /// Suspends a worker (SIGSTOP).
    pub fn suspend(&self, worker: usize) {
        self.signal(worker, Signal::STOP);
    }

    /// Lets a suspended worker go on (SIGCONT).
    pub fn resume(&self, worker: usize) {
        self.signal(worker, Signal::CONT);
    }

    /// Terminates all workers (SIGTERM) and waits until they have ended.
    ///
    /// # Errors
    /// If waiting for one fails.
    pub async fn shut_down(self) -> anyhow::Result<()> {
        child_process::shut_down(self.workers.into_iter().map(|worker| worker.child).collect()).await
    }

    fn signal(&self, worker: usize, signal: Signal) {
        child_process::signal(&self.workers[worker].child, signal);
    }

    fn spawn(&mut self, ahead: i64, abort_at: Option<&str>) -> anyhow::Result<Worker> {
        self.started += 1;
        let program = &self.program;
        let log = std::fs::File::create(program.logs.join(format!("worker-{}.log", self.started)))?;
        let previous = program.previous.as_ref().filter(|_| self.started.is_multiple_of(2));
        let executable = previous.unwrap_or(&program.executable);
        let mut command = Command::new(executable);
        match &program.model {
            Some(model) => command.arg("--settings").arg(&program.settings).args(["worker", "--model"]).arg(model),
            None => command.args(["worker", "--settings"]).arg(&program.settings),
        };
        if let (Some(abort_at), None) = (abort_at, &program.model) {
            command.args(["--abort-at", abort_at]);
        }
        // The pipe is closed when this process ends, and then the worker exits.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        command.env("RUST_LOG", "info,worker=debug").current_dir(&program.logs);
        if ahead != 0 {
            command.envs(self.clock.variables(ahead));
        }
        let child = command.spawn().with_context(|| executable.display().to_string())?;
        Ok(Worker { child, ahead })
    }
}

/// The duplicate window of the streams of a run: little more than the minimum for the settings below, so that some
/// jobs are delivered again after it.
pub fn duplicate_window(real: bool) -> Duration {
    Duration::from_secs(if real { 180 } else { 60 })
}

/// The settings of the workers of a run, with short timeouts, so that lost jobs are delivered again soon.
pub fn settings(nats_url: &str, s3_endpoint: &str, access: &sandbox::S3Access, replicas: usize, real: bool) -> String {
    // A debug build of the model is slow.
    let (job_timeout, slots) = if real { ("120s", 4) } else { ("20s", 8) };
    format!(
        "[nats]\nurl = \"{nats_url}\"\nconnect_timeout = \"3s\"\nrequest_timeout = \"5s\"\nping_interval = \"2s\"\n\
         [streams]\nack_wait = \"3s\"\nreplicas = {replicas}\nduplicate_window = \"{}s\"\n\
         [s3]\nendpoint = \"{s3_endpoint}\"\npath_style = true\naccess_key = \"{}\"\nsecret_key = \"{}\"\n\
         allow = [\"{}\"]\nread_timeout = \"2s\"\noperation_timeout = \"6s\"\nattempts = 2\n\
         [worker]\nslots = {slots}\njob_timeout = \"{job_timeout}\"\npublish_timeout = \"5s\"\n\
         max_retry_delay = \"1s\"\nmax_deliveries = 12\nshutdown_timeout = \"20s\"\n\
         release_own_limits_for = \"4s\"\n",
        duplicate_window(real).as_secs(),
        access.access_key,
        access.secret_key,
        access.bucket
    )
}

/// Writes the settings to a file.
///
/// # Errors
/// If it cannot be written.
pub fn write_settings(folder: &Path, text: &str) -> anyhow::Result<PathBuf> {
    let file = folder.join("groundling.toml");
    std::fs::write(&file, text)?;
    Ok(file)
}
