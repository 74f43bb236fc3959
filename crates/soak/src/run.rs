//! One run: servers up, jobs in, faults made, and the reckoning.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use async_nats::jetstream::{self, stream};
use futures::StreamExt;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandbox::{DemoData, SeaweedFs};
use tokio::sync::watch;
use wire::subjects::{ANNOTATIONS_STREAM, FAILED_STREAM, JOBS_STREAM};
use worker::fetch::s3::ObjectStore;
use worker::settings::{S3Settings, Secret, StreamSettings};

use crate::broker::Broker;
use crate::faults::{self, Fault, Targets};
use crate::insist::insist;
use crate::oracle::{Figures, Records, judge};
use crate::plan::{self, PlannedJob};
use crate::pool::settings;
use crate::pool::{self, Pool, Program};
use crate::s3_proxy::S3Proxy;
use crate::streams;
use crate::submit::submit;

/// Uploads under way at once.
const CONCURRENT: usize = 16;
/// Pause between submissions while a fault lasts.
const DRIP: Duration = Duration::from_millis(100);
/// How long nothing may change at the end before what is left counts as lost: longer than all attempts at a stalled
/// object.
const STANDSTILL: Duration = Duration::from_secs(180);

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Jobs to submit.
    pub jobs: usize,
    /// Faults to make.
    pub faults: usize,
    /// The only one to make, again and again; without it all kinds come.
    pub only: Option<Fault>,
    /// What everything random follows from, but for the time that things take.
    pub seed: u64,
    /// NATS servers: 1, or 3 with three copies of each stream.
    pub nodes: usize,
    /// Worker processes.
    pub workers: usize,
    /// `groundling`, to run it with the small model; without it the stub runs.
    pub groundling: Option<PathBuf>,
    /// This package's own program, which runs the stub.
    pub soak: PathBuf,
    /// Where logs go.
    pub logs: PathBuf,
}

/// Runs, and tells what it came to, with a line for everything that is wrong.
///
/// # Errors
/// When something fails that was not to fail.
pub async fn run(options: &Options) -> anyhow::Result<(Figures, Vec<String>)> {
    let started = Instant::now();
    std::fs::create_dir_all(&options.logs)?;
    let mut broker = Broker::start(options.nodes).await?;
    let mut store = SeaweedFs::start().await?;
    let s3: SocketAddr = store.endpoint().trim_start_matches("http://").parse().context("the store's address")?;
    let s3 = S3Proxy::start(s3).await?;
    let bucket = store.admin().bucket.clone();
    let mut random = ChaCha8Rng::seed_from_u64(options.seed ^ 0xfa17);
    let faults = faults::sequence(options.faults, options.only, options.nodes > 1, &mut random);
    let poisons: Vec<_> = faults.iter().filter_map(|fault| fault.poison()).collect();
    let is_real = options.groundling.is_some();
    // The pictures beside the poisoned ones are the stub's.
    let poisoned = plan::poisoned_blocks(&poisons, options.jobs, is_real, options.seed, &bucket)?;
    let count = options.jobs - poisoned.iter().map(Vec::len).sum::<usize>();
    let jobs = match is_real {
        false => plan::stub_jobs(count, options.seed, &bucket)?,
        true => plan::real_jobs(count, options.seed, &bucket)?,
    };
    let all: Vec<PlannedJob> = jobs.iter().chain(poisoned.iter().flatten()).cloned().collect();
    upload(&store, &all).await?;
    let jetstream = broker.direct().await?;
    let replicas = options.nodes;
    let duplicate_window = pool::duplicate_window(is_real);
    let ack_wait = Duration::from_secs(3);
    set_up(&jetstream, StreamSettings { replicas, ack_wait, duplicate_window, ..Default::default() }).await?;
    know_submissions(&jetstream).await?;

    let (proxied, endpoint) = (broker.proxied_url(), format!("http://{}", s3.address()));
    let text = settings(&proxied, &endpoint, store.read_only(), replicas, is_real);
    let program = Program {
        executable: options.groundling.clone().unwrap_or_else(|| options.soak.clone()),
        model: options.groundling.as_ref().map(|_| DemoData::locate().map(|demo| demo.model_dir)).transpose()?,
        settings: pool::write_settings(&options.logs, &text)?,
        logs: options.logs.clone(),
        duplicate_window,
    };
    progress!("{} objects are in the store, the streams are made; {:.0?}", all.len(), started.elapsed());
    let mut pool = Pool::start(program, options.workers)?;
    let (allow, allowed) = watch::channel(0);
    let submitting = tokio::spawn(submit(proxied, jobs, allowed));
    let targets = Targets {
        pool: &mut pool,
        broker: &mut broker,
        store: &mut store,
        s3: &s3,
        jetstream: &jetstream,
        poisoned: VecDeque::from(poisoned),
    };
    let log = std::fs::File::create(options.logs.join("faults.log"))?;
    make_faults(&faults, targets, random, Pace { jobs: count, allow }, log).await?;
    let mut submitting = submitting;
    loop {
        pool.keep_up()?;
        tokio::select! {
            submitted = &mut submitting => break submitted??,
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
    let left = wait_for_the_end(&mut pool, &jetstream).await?;
    pool.end().await?;
    let records = Records::read(&jetstream).await?;
    let (figures, mut wrong) = judge(&all, &records);
    if left > 0 {
        wrong.push(format!("{left} jobs are still in the queue"));
    }
    progress!("{} requests to the store were answered wrongly", s3.injected());
    let seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    Ok((Figures { faults: options.faults, seconds, ..figures }, wrong))
}

async fn set_up(jetstream: &jetstream::Context, settings: StreamSettings) -> anyhow::Result<()> {
    let mut last = None;
    // A cluster is healthy before it has a leader that makes streams.
    for _ in 0..10 {
        match broker::setup::setup(jetstream, &settings).await {
            Ok(report) if report.is_ready() => return Ok(()),
            Ok(report) => bail!("the streams differ: {report:?}"),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    bail!("the streams could not be made: {last:?}")
}

/// Has the stream of jobs know ids for longer than any limit lasts: the submitter tries again as often as it takes.
async fn know_submissions(jetstream: &jetstream::Context) -> anyhow::Result<()> {
    let duplicate_window = StreamSettings::default().duplicate_window;
    insist("the change of the stream of jobs", async || {
        let found = jetstream.get_stream(JOBS_STREAM).await?;
        let config = stream::Config { duplicate_window, ..found.cached_info().config.clone() };
        jetstream.update_stream(config).await?;
        anyhow::Ok(())
    })
    .await
}

async fn upload(store: &SeaweedFs, jobs: &[PlannedJob]) -> anyhow::Result<()> {
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
        async move { put.send().await.map(drop).with_context(|| format!("the upload of {key}")) }
    });
    let mut puts = futures::stream::iter(puts).buffer_unordered(CONCURRENT);
    while let Some(put) = puts.next().await {
        put?;
    }
    Ok(())
}

/// Which jobs may be submitted by now: each fault finds work under way, and more comes while it lasts.
struct Pace {
    jobs: usize,
    allow: watch::Sender<usize>,
}

async fn make_faults(
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
        targets.pool.keep_up()?;
        let began = start.elapsed().as_secs_f64();
        let making = faults::make(fault, &mut targets, &mut random);
        tokio::pin!(making);
        let made = loop {
            tokio::select! {
                made = &mut making => break made,
                () = tokio::time::sleep(DRIP) => {
                    allowed = (allowed + 1).min(all);
                    allow.send_replace(allowed);
                }
            }
        };
        let (details, ended) = (made.as_deref().unwrap_or("failed"), start.elapsed().as_secs_f64());
        writeln!(log, "{began:8.3} {ended:8.3} {number} {fault:?} {details}")?;
        made.with_context(|| format!("fault {number}, {fault:?}"))?;
        allow.send_replace(all);
        if number % 20 == 19 {
            progress!("{} of {} faults; {:.0?}", number + 1, faults.len(), start.elapsed());
        }
    }
    allow.send_replace(usize::MAX);
    Ok(())
}

/// Until the queue is empty, or nothing changes any more. Gives what is left in the queue.
async fn wait_for_the_end(pool: &mut Pool, jetstream: &jetstream::Context) -> anyhow::Result<u64> {
    let (mut last, mut changed) = (None, Instant::now());
    loop {
        pool.keep_up()?;
        let mut now = Vec::new();
        for stream in streams::UNFINISHED.into_iter().chain([ANNOTATIONS_STREAM, FAILED_STREAM]) {
            now.push(jetstream.get_stream(stream).await.ok().map(|stream| stream.cached_info().state.messages));
        }
        // A job that moves to the retries is in both streams for a moment, and they are read in this order.
        let left: Option<u64> = now.iter().take(streams::UNFINISHED.len()).copied().sum();
        if left == Some(0) {
            return Ok(0);
        }
        if last.as_ref() != Some(&now) {
            (last, changed) = (Some(now), Instant::now());
        } else if changed.elapsed() > STANDSTILL {
            progress!("nothing changes any more: jobs, retries, annotations, failures are {last:?}");
            return left.context("the server does not say how many jobs are left");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
