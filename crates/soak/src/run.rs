//! One run: starts the servers, submits jobs, injects faults, and compares the results.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use async_nats::jetstream::{self, stream};
use broker::events_setup;
use futures::StreamExt;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandbox::{DemoData, SeaweedFs};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wire::subjects::{ANNOTATIONS_STREAM, CURSORS_WILDCARD, FAILED_STREAM, JOBS_STREAM};
use worker::fetch::s3::ObjectStore;
use worker::settings::{S3Settings, Secret, StreamSettings};

use crate::claims::Claims;
use crate::faults::{self, Fault, Targets};
use crate::feeder::Feeders;
use crate::ingest::{self, Ingest};
use crate::oracle::{Records, Summary, compare};
use crate::plan::{self, PlannedJob};
use crate::pool::settings;
use crate::pool::{self, Program, WorkerProcesses};
use crate::retry::retry;
use crate::s3_proxy::S3Proxy;
use crate::servers::Servers;
use crate::streams;
use crate::submit::submit;

/// Maximum number of concurrent uploads.
const CONCURRENT: usize = 16;
/// Interval of submissions during a fault.
const SUBMIT_INTERVAL: Duration = Duration::from_millis(100);
/// How long nothing may change at the end before the remaining jobs count as lost: longer than all attempts at a stalled
/// object.
const NO_PROGRESS_LIMIT: Duration = Duration::from_secs(180);

/// The options of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The number of jobs to submit.
    pub jobs: usize,
    /// The number of objects whose events are ingested, in addition to the jobs.
    pub events: usize,
    /// The number of faults to inject.
    pub faults: usize,
    /// The only kind of fault to inject; `None` for all kinds.
    pub only: Option<Fault>,
    /// The random seed. Timing still differs between runs.
    pub seed: u64,
    /// The number of NATS servers: 1, or 3 with three replicas of each stream.
    pub nodes: usize,
    /// The number of worker processes.
    pub workers: usize,
    /// The `groundling` program, to run it with the small model; `None` for the stub.
    pub groundling: Option<PathBuf>,
    /// The program of the previous release, which every second worker runs.
    pub previous: Option<PathBuf>,
    /// The `soak` program, which runs the stub.
    pub soak: PathBuf,
    /// The directory for logs.
    pub logs: PathBuf,
}

/// Makes a run. Returns the counts, and a line for each problem.
///
/// # Errors
/// If something fails that is not an injected fault.
pub async fn run(options: &Options) -> anyhow::Result<(Summary, Vec<String>)> {
    let started = Instant::now();
    std::fs::create_dir_all(&options.logs)?;
    let mut servers = Servers::start(options.nodes, &options.logs).await?;
    let mut store = SeaweedFs::start().await?;
    let s3: SocketAddr =
        store.endpoint().trim_start_matches("http://").parse().context("could not parse the store's address")?;
    let s3 = S3Proxy::start(s3).await?;
    let bucket = store.admin().bucket.clone();
    let mut random = ChaCha8Rng::seed_from_u64(options.seed ^ 0xfa17);
    let faults = faults::sequence(options.faults, options.only, options.nodes > 1, &mut random);
    let poisons: Vec<_> = faults.iter().filter_map(|fault| fault.poison()).collect();
    let is_real = options.groundling.is_some();
    // With the real model all are poisoned, because the expected texts of the others are the stub's.
    let poisoned = plan::poisoned_blocks(&poisons, options.jobs, is_real, options.seed, &bucket)?;
    // The feeders' objects have no texts of the reference. Runs with one kind of fault are about that fault.
    let fed = if is_real || options.only.is_some() {
        Vec::new()
    } else {
        plan::fed_jobs(options.jobs, options.seed, &bucket)?
    };
    let count = options.jobs - poisoned.iter().map(Vec::len).sum::<usize>() - fed.len();
    let jobs = match is_real {
        false => plan::stub_jobs(count, options.seed, &bucket)?,
        true => plan::real_jobs(count, options.seed, &bucket)?,
    };
    let (from_events, objects): (Vec<_>, Vec<_>) =
        plan::jobs_from_events(options.events, options.seed, &bucket)?.into_iter().unzip();
    let planned = jobs.iter().chain(poisoned.iter().flatten()).chain(&fed).chain(&from_events);
    let all: Vec<PlannedJob> = planned.cloned().collect();
    upload(&store, &all).await?;
    let jetstream = servers.direct().await?;
    let replicas = options.nodes;
    let duplicate_window = pool::duplicate_window(is_real);
    let ack_wait = Duration::from_secs(3);
    set_up(&jetstream, StreamSettings { replicas, ack_wait, duplicate_window, ..Default::default() }).await?;
    extend_duplicate_window(&jetstream).await?;

    let (proxied, endpoint) = (servers.proxied_url(), format!("http://{}", s3.address()));
    let text = settings(&proxied, &endpoint, store.read_only(), replicas, is_real);
    let program = Program {
        executable: options.groundling.clone().unwrap_or_else(|| options.soak.clone()),
        model: options.groundling.as_ref().map(|_| DemoData::locate().map(|demo| demo.model_dir)).transpose()?,
        previous: options.previous.clone(),
        settings: pool::write_settings(&options.logs, &text)?,
        logs: options.logs.clone(),
        duplicate_window,
    };
    progress!("{} jobs planned, objects uploaded and streams created; {:.0?}", all.len(), started.elapsed());
    let feeders = Feeders {
        executable: options.soak.clone(),
        settings: program.settings.clone(),
        logs: options.logs.clone(),
        bucket,
    };
    let settings_file = program.settings.clone();
    let mut pool = WorkerProcesses::start(program, options.workers)?;
    let (over, is_over) = watch::channel(false);
    let claiming = tokio::spawn(Claims::collect(jetstream.clone(), is_over));
    let (allow, allowed) = watch::channel(0);
    let feeding = (!fed.is_empty()).then(|| tokio::spawn(feeders.run(count, allowed.clone(), options.seed)));
    let ingesting = (!objects.is_empty()).then(|| {
        let ingest = Ingest {
            executable: options.soak.clone(),
            settings: settings_file,
            logs: options.logs.clone(),
            url: proxied.clone(),
            messages: ingest::messages(&objects, options.seed),
            objects: objects.len(),
        };
        tokio::spawn(ingest.run(jetstream.clone(), count, allowed.clone(), options.seed))
    });
    let submitting = tokio::spawn(submit(proxied, jobs, allowed));
    let targets = Targets {
        pool: &mut pool,
        servers: &mut servers,
        store: &mut store,
        s3: &s3,
        jetstream: &jetstream,
        poisoned: VecDeque::from(poisoned),
    };
    let log = std::fs::File::create(options.logs.join("faults.log"))?;
    inject_faults(&faults, targets, random, Pace { jobs: count, allow }, log).await?;
    let sequences = join_while_restarting(&mut pool, submitting).await?;
    if let Some(feeding) = feeding {
        let kills = join_while_restarting(&mut pool, feeding).await?;
        progress!("{} jobs fed, feeders killed {kills} times", fed.len());
    }
    if let Some(ingesting) = ingesting {
        let kills = join_while_restarting(&mut pool, ingesting).await?;
        progress!("events of {} objects ingested, process killed {kills} times", from_events.len());
    }
    remove_cursors(&jetstream).await?;
    let left = wait_for_the_end(&mut pool, &jetstream).await?;
    pool.shut_down().await?;
    let records = Records::read(&jetstream).await?;
    over.send_replace(true);
    let claims = claiming.await??;
    let (summary, mut problems) = compare(&all, &sequences, &records, &claims);
    if left > 0 {
        problems.push(format!("{left} jobs are still in the queue"));
    }
    if summary.lost > 0 {
        problems.extend(streams::describe(&jetstream).await);
    }
    progress!("{} requests to the store had a fault", s3.injected());
    let seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    Ok((Summary { faults: options.faults, seconds, ..summary }, problems))
}

/// Waits for the end of a task, and meanwhile replaces workers that have ended.
async fn join_while_restarting<T>(
    pool: &mut WorkerProcesses,
    mut task: JoinHandle<anyhow::Result<T>>,
) -> anyhow::Result<T> {
    loop {
        pool.restart_ended()?;
        tokio::select! {
            ended = &mut task => return ended?,
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
}

async fn set_up(jetstream: &jetstream::Context, settings: StreamSettings) -> anyhow::Result<()> {
    let mut last = String::new();
    // A cluster reports itself healthy before it has a leader that creates streams.
    for _ in 0..10 {
        match broker::setup::setup(jetstream, &settings).await {
            Ok(report) if report.is_ready() => {
                match events_setup::setup_events(jetstream, &settings, &ingest::subjects()).await {
                    Ok(report) if report.is_ready() => return Ok(()),
                    Ok(report) => bail!("the events stream differs from the settings: {report:?}"),
                    Err(error) => last = format!("{:#}", anyhow::Error::from(error)),
                }
            }
            Ok(report) => bail!("the streams differ from the settings: {report:?}"),
            Err(error) => last = format!("{:#}", anyhow::Error::from(error)),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    bail!("the streams could not be created: {last}")
}

/// Gives the jobs stream a duplicate window that is longer than any fault: the submitter retries without limit.
async fn extend_duplicate_window(jetstream: &jetstream::Context) -> anyhow::Result<()> {
    let duplicate_window = StreamSettings::default().duplicate_window;
    retry("the update of the jobs stream", async || {
        let found = jetstream.get_stream(JOBS_STREAM).await?;
        let config = stream::Config { duplicate_window, ..found.cached_info().config.clone() };
        jetstream.update_stream(config).await?;
        anyhow::Ok(())
    })
    .await
}

/// Removes the records of the feeders, so that the jobs stream becomes empty.
async fn remove_cursors(jetstream: &jetstream::Context) -> anyhow::Result<()> {
    retry("the removal of cursors", async || {
        jetstream.get_stream(JOBS_STREAM).await?.purge().filter(CURSORS_WILDCARD).await?;
        anyhow::Ok(())
    })
    .await
}

/// Uploads the objects of the jobs.
///
/// # Errors
/// If one cannot be uploaded.
pub(crate) async fn upload(store: &SeaweedFs, jobs: &[PlannedJob]) -> anyhow::Result<()> {
    let access = store.admin();
    let uploads = ObjectStore::open(&S3Settings {
        endpoint: Some(access.endpoint.clone()),
        path_style: true,
        access_key: Some(access.access_key.clone()),
        secret_key: Some(Secret::new(access.secret_key.clone())),
        ..S3Settings::default()
    })
    .await?;
    let puts = jobs.iter().filter_map(|job| job.object.as_ref()).map(|(key, bytes)| {
        let put = uploads.client().put_object().bucket(&access.bucket).key(key).body(bytes.clone().into());
        async move { put.send().await.map(drop).with_context(|| format!("could not upload {key}")) }
    });
    let mut puts = futures::stream::iter(puts).buffer_unordered(CONCURRENT);
    while let Some(put) = puts.next().await {
        put?;
    }
    Ok(())
}

/// Controls how many jobs may be submitted, so that there are active jobs at each fault, and more during it.
struct Pace {
    jobs: usize,
    allow: watch::Sender<usize>,
}

async fn inject_faults(
    faults: &[Fault],
    mut targets: Targets<'_>,
    mut random: ChaCha8Rng,
    Pace { jobs, allow }: Pace,
    mut log: impl Write,
) -> anyhow::Result<()> {
    let start = Instant::now();
    for (number, &fault) in faults.iter().enumerate() {
        let share = |number: usize| jobs * number / faults.len();
        let (mut allowed, all) = ((share(number) + share(number + 1)).div_ceil(2), share(number + 1));
        allow.send_replace(allowed);
        tokio::time::sleep(Duration::from_millis(random.random_range(200..900))).await;
        targets.pool.restart_ended()?;
        let began = start.elapsed().as_secs_f64();
        let injection = faults::inject(fault, &mut targets, &mut random);
        tokio::pin!(injection);
        let result = loop {
            tokio::select! {
                result = &mut injection => break result,
                () = tokio::time::sleep(SUBMIT_INTERVAL) => {
                    allowed = (allowed + 1).min(all);
                    allow.send_replace(allowed);
                }
            }
        };
        let (details, ended) = (result.as_deref().unwrap_or("failed"), start.elapsed().as_secs_f64());
        writeln!(log, "{began:8.3} {ended:8.3} {number} {fault:?} {details}")?;
        result.with_context(|| format!("fault {number}, {fault:?}"))?;
        allow.send_replace(all);
        if number % 20 == 19 {
            progress!("{} of {} faults; {:.0?}", number + 1, faults.len(), start.elapsed());
        }
    }
    allow.send_replace(usize::MAX);
    Ok(())
}

/// Waits until no unfinished jobs are left, or nothing changes any more. Returns the number of jobs left.
async fn wait_for_the_end(pool: &mut WorkerProcesses, jetstream: &jetstream::Context) -> anyhow::Result<u64> {
    let (mut last, mut changed) = (None, Instant::now());
    loop {
        pool.restart_ended()?;
        let mut now = Vec::new();
        for stream in streams::UNFINISHED.into_iter().chain([ANNOTATIONS_STREAM, FAILED_STREAM]) {
            now.push(jetstream.get_stream(stream).await.ok().map(|stream| stream.cached_info().state.messages));
        }
        // A job that moves to the retries is in both streams for a moment, and the jobs stream is read first.
        let left: Option<u64> = now.iter().take(streams::UNFINISHED.len()).copied().sum();
        if left == Some(0) {
            return Ok(0);
        }
        if last.as_ref() != Some(&now) {
            (last, changed) = (Some(now), Instant::now());
        } else if changed.elapsed() > NO_PROGRESS_LIMIT {
            progress!("no progress: the jobs, retries, annotations and failed streams have {last:?} messages");
            return left.context("the server does not report how many jobs are left");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
