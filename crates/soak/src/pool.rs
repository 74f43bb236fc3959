//! The worker processes of a run.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use sandbox::ShiftedClock;
use tokio::process::{Child, Command};
use worker::Step;

/// How long a worker may take from SIGTERM to its end: `shutdown_timeout`, and what a busy machine adds to it.
const END_LIMIT: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(20);

/// How to start a worker.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable: this package's own, or `groundling`.
    pub executable: PathBuf,
    /// Whether it is `groundling`, with the small model at this place.
    pub model: Option<PathBuf>,
    /// The settings file.
    pub settings: PathBuf,
    /// Where the workers' logs go.
    pub logs: PathBuf,
    /// How long the streams know the ids of what they hold.
    pub duplicate_window: Duration,
}

/// Worker processes, each of which is started anew when it ends.
#[derive(Debug)]
pub struct Pool {
    program: Program,
    workers: Vec<Worker>,
    started: usize,
    clock: ShiftedClock,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    stopped: bool,
    /// Seconds by which its clock is ahead, also of those that come in its place.
    ahead: i64,
}

impl Pool {
    /// Starts this many.
    ///
    /// # Errors
    /// When the program does not start, or there is no C compiler for the clocks.
    pub fn start(program: Program, size: usize) -> anyhow::Result<Self> {
        let mut pool = Self { program, workers: Vec::new(), started: 0, clock: ShiftedClock::build()? };
        for _ in 0..size {
            let worker = pool.spawn(0, None)?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Number of workers.
    pub fn size(&self) -> usize {
        self.workers.len()
    }

    /// Starts those anew that have ended by a fault.
    ///
    /// # Errors
    /// When the program does not start.
    pub fn keep_up(&mut self) -> anyhow::Result<()> {
        for i in 0..self.workers.len() {
            if self.workers[i].child.try_wait()?.is_some() {
                self.workers[i] = self.spawn(self.workers[i].ahead, None)?;
            }
        }
        Ok(())
    }

    /// SIGKILL to one; one that aborts at `abort_at` ("step:times") or a plain one comes in its place.
    ///
    /// # Errors
    /// When the program does not start.
    pub async fn replace(&mut self, worker: usize, abort_at: Option<&str>) -> anyhow::Result<()> {
        self.workers[worker].child.kill().await?;
        self.workers[worker] = self.spawn(self.workers[worker].ahead, abort_at)?;
        Ok(())
    }

    /// SIGKILL to one; one whose clock is so many seconds ahead, or behind, comes in its place.
    ///
    /// # Errors
    /// When the program does not start.
    pub async fn replace_with_clock(&mut self, worker: usize, ahead: i64) -> anyhow::Result<()> {
        self.workers[worker].ahead = ahead;
        self.replace(worker, None).await
    }

    /// Has each worker abort once it has published an annotation, with a clock that is so many seconds ahead then. No
    /// other comes before the streams have forgotten the annotations' ids.
    ///
    /// # Errors
    /// When the program does not start.
    pub async fn leave_for_long(&mut self, ahead: &[i64]) -> anyhow::Result<()> {
        for (worker, ahead) in (0..self.workers.len()).zip(ahead) {
            self.workers[worker].ahead = *ahead;
            self.replace(worker, Some(&format!("{:?}:2", Step::AnnotationPublished))).await?;
        }
        // Some may find no work.
        tokio::time::sleep(Duration::from_secs(5)).await;
        for worker in &mut self.workers {
            worker.child.kill().await?;
        }
        tokio::time::sleep(self.program.duplicate_window).await;
        self.keep_up()
    }

    /// SIGTERM to some, one after the other, and a new start of each once it has ended.
    ///
    /// # Errors
    /// When one does not end, or the program does not start.
    pub async fn restart(&mut self, workers: &[usize]) -> anyhow::Result<()> {
        for &worker in workers {
            self.terminate(worker);
        }
        for &worker in workers {
            let told = Instant::now();
            // Not by waiting, which would close its standard input.
            while self.workers[worker].child.try_wait()?.is_none() {
                if told.elapsed() > END_LIMIT {
                    bail!("a worker did not end within {END_LIMIT:?} after SIGTERM");
                }
                tokio::time::sleep(LOOK).await;
            }
            self.workers[worker] = self.spawn(self.workers[worker].ahead, None)?;
        }
        Ok(())
    }

    /// SIGTERM to one. Another comes in its place when it has ended.
    pub fn terminate(&self, worker: usize) {
        self.signal(worker, Signal::TERM);
    }

    /// SIGSTOP, or SIGCONT.
    pub fn stop(&mut self, worker: usize, stopped: bool) {
        self.signal(worker, if stopped { Signal::STOP } else { Signal::CONT });
        self.workers[worker].stopped = stopped;
    }

    /// SIGTERM to all, and their ends waited for.
    ///
    /// # Errors
    /// When one cannot be waited for.
    pub async fn end(mut self) -> anyhow::Result<()> {
        for i in 0..self.workers.len() {
            self.terminate(i);
        }
        for worker in &mut self.workers {
            // Waiting would close its standard input, and so end it before its work is.
            let _open = worker.child.stdin.take();
            worker.child.wait().await?;
        }
        Ok(())
    }

    fn signal(&self, worker: usize, signal: Signal) {
        let id = self.workers[worker].child.id().and_then(|id| i32::try_from(id).ok());
        // Fails only for a process that has ended.
        let _ = id.and_then(Pid::from_raw).map(|pid| kill_process(pid, signal));
    }

    fn spawn(&mut self, ahead: i64, abort_at: Option<&str>) -> anyhow::Result<Worker> {
        self.started += 1;
        let program = &self.program;
        let log = std::fs::File::create(program.logs.join(format!("worker-{}.log", self.started)))?;
        let mut command = Command::new(&program.executable);
        match &program.model {
            Some(model) => command.arg("--settings").arg(&program.settings).args(["worker", "--model"]).arg(model),
            None => command.args(["worker", "--settings"]).arg(&program.settings),
        };
        if let (Some(abort_at), None) = (abort_at, &program.model) {
            command.args(["--abort-at", abort_at]);
        }
        // The pipe closes when this process dies, and the worker ends with it.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        command.env("RUST_LOG", "info,worker=debug").current_dir(&program.logs);
        if ahead != 0 {
            command.envs(self.clock.variables(ahead));
        }
        let child = command.spawn().with_context(|| program.executable.display().to_string())?;
        Ok(Worker { child, stopped: false, ahead })
    }
}

/// How long the streams of a run know the ids of what they hold: little more than the settings below demand, so
/// that workers also meet jobs whose ids are forgotten.
pub fn duplicate_window(real: bool) -> Duration {
    Duration::from_secs(if real { 180 } else { 60 })
}

/// The settings that workers of a run have: as short as they may be, so that what is lost comes back soon.
pub fn settings(nats_url: &str, s3_endpoint: &str, access: &sandbox::S3Access, replicas: usize, real: bool) -> String {
    // A debug build of the model on a busy machine needs its time.
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
/// When it cannot be written.
pub fn write_settings(folder: &Path, text: &str) -> anyhow::Result<PathBuf> {
    let file = folder.join("groundling.toml");
    std::fs::write(&file, text)?;
    Ok(file)
}
