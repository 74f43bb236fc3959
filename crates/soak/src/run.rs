//! One run: servers up, jobs in, faults made, and the reckoning.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use async_nats::jetstream::{self, message::PublishMessage};
use futures::{StreamExt, stream};
use protocol::subjects::{ANNOTATIONS_STREAM, Dataset, FAILED_STREAM, JOBS_STREAM, RETRIES_STREAM};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandbox::{DemoData, SeaweedFs};
use tokio::sync::watch;
use worker::fetch::s3::ObjectStore;
use worker::settings::{S3Settings, Secret, StreamSettings};

use crate::broker::Broker;
use crate::faults::{self, Fault, Targets};
use crate::oracle::{Figures, Records, judge};
use crate::plan::{self, PlannedJob};
use crate::pool::settings;
use crate::pool::{self, Pool, Program};
use crate::s3_proxy::S3Proxy;

/// Uploads and submissions under way at once.
const CONCURRENT: usize = 16;
/// Pause between submissions while a fault lasts.
const DRIP: Duration = Duration::from_millis(100);
/// How long nothing may change at the end before what is left counts as lost.
const STANDSTILL: Duration = Duration::from_secs(120);

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
    let jobs = match &options.groundling {
        None => plan::stub_jobs(options.jobs, options.seed, &bucket)?,
        Some(_) => plan::real_jobs(options.jobs, options.seed, &bucket)?,
    };
    upload(&store, &jobs).await?;
    let jetstream = broker.direct().await?;
    let replicas = options.nodes;
    set_up(&jetstream, StreamSettings { replicas, ack_wait: Duration::from_secs(3), ..Default::default() }).await?;

    let (proxied, endpoint) = (broker.proxied_url(), format!("http://{}", s3.address()));
    let text = settings(&proxied, &endpoint, store.read_only(), replicas, options.groundling.is_some());
    let program = Program {
        executable: options.groundling.clone().unwrap_or_else(|| options.soak.clone()),
        model: options.groundling.as_ref().map(|_| DemoData::locate().map(|demo| demo.model_dir)).transpose()?,
        settings: pool::write_settings(&options.logs, &text)?,
        logs: options.logs.clone(),
    };
    progress!("{} objects are in the store, the streams are made; {:.0?}", jobs.len(), started.elapsed());
    let mut pool = Pool::start(program, options.workers)?;
    let jobs = Arc::new(jobs);
    let (allow, allowed) = watch::channel(0);
    let submitting = tokio::spawn(submit(proxied, Arc::clone(&jobs), allowed));
    let targets = Targets { pool: &mut pool, broker: &mut broker, store: &mut store, jetstream: &jetstream };
    make_faults(options, targets, &allow).await?;
    allow.send_replace(usize::MAX);
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
    let (figures, mut wrong) = judge(&jobs, &records);
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
        match worker::setup::setup(jetstream, &settings).await {
            Ok(report) if report.is_ready() => return Ok(()),
            Ok(report) => bail!("the streams differ: {report:?}"),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    bail!("the streams could not be made: {last:?}")
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
    let mut puts = stream::iter(puts).buffer_unordered(CONCURRENT);
    while let Some(put) = puts.next().await {
        put?;
    }
    Ok(())
}

/// Publishes every job until its submission is acknowledged; no more of them than are allowed by now.
async fn submit(url: String, jobs: Arc<Vec<PlannedJob>>, allowed: watch::Receiver<usize>) -> anyhow::Result<()> {
    let servers: Vec<async_nats::ServerAddr> = url.split(',').filter_map(|server| server.parse().ok()).collect();
    let client = async_nats::ConnectOptions::new()
        .ping_interval(Duration::from_secs(2))
        .connection_timeout(Duration::from_secs(3))
        .retry_on_initial_connect()
        .connect(servers)
        .await?;
    let jetstream = jetstream::ContextBuilder::new().timeout(Duration::from_secs(5)).build(client);
    let subject = plan::DATASET.parse::<Dataset>()?.jobs_subject();
    stream::iter(jobs.iter().enumerate())
        .for_each_concurrent(CONCURRENT, |(i, job)| {
            let (jetstream, subject, mut allowed) = (&jetstream, subject.clone(), allowed.clone());
            async move {
                // Fails only once the run is given up.
                let _ = allowed.wait_for(|allowed| i < *allowed).await;
                while let Err(error) = publish(jetstream, &subject, job).await {
                    tracing::debug!(job = job.id, %error, "submitting again");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        })
        .await;
    Ok(())
}

async fn publish(jetstream: &jetstream::Context, subject: &str, job: &PlannedJob) -> Result<(), async_nats::Error> {
    let message = PublishMessage::build().payload(job.payload.clone().into()).message_id(&job.id);
    jetstream.send_publish(subject.to_owned(), message).await?.await?;
    Ok(())
}

async fn make_faults(options: &Options, targets: Targets<'_>, allow: &watch::Sender<usize>) -> anyhow::Result<()> {
    let Targets { pool, broker, store, jetstream } = targets;
    let mut random = ChaCha8Rng::seed_from_u64(options.seed ^ 0xfa17);
    let mut log = std::fs::File::create(options.logs.join("faults.log"))?;
    let start = Instant::now();
    for number in 0..options.faults {
        let share = |number: usize| options.jobs * number / options.faults;
        // So that each fault finds work under way, and more comes while it lasts.
        let (mut allowed, all) = ((share(number) + share(number + 1)).div_ceil(2), share(number + 1));
        allow.send_replace(allowed);
        tokio::time::sleep(Duration::from_millis(random.random_range(200..900))).await;
        pool.keep_up()?;
        let fault = options.only.unwrap_or_else(|| faults::next(number, options.nodes > 1, &mut random));
        writeln!(log, "{:8.3} {number} {fault:?}", start.elapsed().as_secs_f64())?;
        let targets = Targets { pool: &mut *pool, broker: &mut *broker, store: &mut *store, jetstream };
        let making = faults::make(fault, targets, &mut random);
        tokio::pin!(making);
        loop {
            tokio::select! {
                made = &mut making => break made?,
                () = tokio::time::sleep(DRIP) => {
                    allowed = (allowed + 1).min(all);
                    allow.send_replace(allowed);
                }
            }
        }
        allow.send_replace(all);
        if number % 20 == 19 {
            progress!("{} of {} faults; {:.0?}", number + 1, options.faults, start.elapsed());
        }
    }
    Ok(())
}

/// Until the queue is empty, or nothing changes any more. Gives what is left in the queue.
async fn wait_for_the_end(pool: &mut Pool, jetstream: &jetstream::Context) -> anyhow::Result<u64> {
    let (mut last, mut changed) = (None, Instant::now());
    loop {
        pool.keep_up()?;
        let mut now = Vec::new();
        for stream in [JOBS_STREAM, RETRIES_STREAM, ANNOTATIONS_STREAM, FAILED_STREAM] {
            now.push(jetstream.get_stream(stream).await.ok().map(|stream| stream.cached_info().state.messages));
        }
        // A job on its way from the first to the second stream is in both for a moment, so the order matters.
        let left = now[0].zip(now[1]).map(|(jobs, retries)| jobs + retries);
        if left == Some(0) {
            return Ok(0);
        }
        if last.as_ref() != Some(&now) {
            (last, changed) = (Some(now), Instant::now());
        } else if changed.elapsed() > STANDSTILL {
            progress!("nothing changes any more: jobs, retries, annotations, failures are {last:?}");
            return Ok(left.unwrap_or(1));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
