//! `soak scale`: the throughput of several numbers of worker processes on an engine with a fixed time for each picture,
//! and what a job costs the broker, the store and the worker.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use async_nats::jetstream;
use futures::StreamExt;
use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandbox::{NatsOptions, NatsServer, NatsTraffic, S3Access, SeaweedFs};
use serde::Serialize;
use tokio::process::{Child, Command};
use wire::subjects::{ANNOTATIONS_STREAM, JOBS_STREAM, OUTCOMES_STREAM};
use worker::settings::StreamSettings;

use crate::child_process::shut_down;
use crate::plan::{self, PlannedJob};
use crate::process_cost::cpu_time;
use crate::run::upload;
use crate::submit::publish_until_accepted;

/// The number of different pictures.
const PICTURES: usize = 64;
/// Side of the pictures in pixels.
const SIDE: u32 = 256;
const JPEG_QUALITY: u8 = 85;
/// Maximum number of concurrent submissions.
const CONCURRENT: usize = 64;
/// The part of the annotations at the beginning and at the end that is not counted: workers start and end one by one.
const MARGIN: f64 = 0.15;
/// How long nothing may change before the measurement is given up.
const NO_PROGRESS_LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The options of a measurement.
#[derive(Debug, Clone)]
pub struct ScaleOptions {
    /// The numbers of worker processes.
    pub workers: Vec<usize>,
    /// How long the engine of a worker takes for a picture. It takes one at a time.
    pub request_time: Duration,
    /// How long each number of workers would take with nothing but the engine's time.
    pub duration: Duration,
    /// The `soak` program.
    pub soak: PathBuf,
    /// The directory for settings and logs.
    pub logs: PathBuf,
}

/// The result for one number of workers.
#[derive(Debug, Clone, Serialize)]
pub struct Scale {
    /// The number of worker processes.
    pub workers: usize,
    /// The number of jobs. All were annotated.
    pub jobs: usize,
    /// Annotations per second, without the first and the last ones.
    pub images_per_s: f64,
    /// The same as a part of the engines' rate.
    pub engine_share: f64,
    /// CPU seconds of all processes per second, as a part of the machine's cores.
    pub cpu_share: f64,
    /// What one job costs.
    pub job: JobCost,
}

/// What one job costs, as a mean.
#[derive(Debug, Clone, Serialize)]
pub struct JobCost {
    /// CPU time of the workers in milliseconds.
    pub worker_cpu_ms: f64,
    /// CPU time of the NATS server in milliseconds.
    pub nats_cpu_ms: f64,
    /// CPU time of the S3 store in milliseconds.
    pub store_cpu_ms: f64,
    /// Messages that the NATS server received, without the job's.
    pub nats_messages_in: f64,
    /// Messages that the NATS server sent.
    pub nats_messages_out: f64,
    /// Payload bytes of the received messages.
    pub nats_bytes_in: f64,
    /// Payload bytes of the sent messages.
    pub nats_bytes_out: f64,
    /// Bytes that a message takes in each stream.
    pub stored_bytes: BTreeMap<&'static str, f64>,
    /// Bytes of the picture.
    pub picture_bytes: f64,
}

/// Measures each number of workers, one after the other, each with a new NATS server. `report` gets each result.
///
/// # Errors
/// If a server or worker fails, or not every job is annotated.
pub async fn scale(options: &ScaleOptions, mut report: impl FnMut(&Scale)) -> anyhow::Result<()> {
    std::fs::create_dir_all(&options.logs)?;
    ensure!(!options.request_time.is_zero(), "the engine must take some time for a picture");
    let store = SeaweedFs::start().await?;
    let pictures = pictures()?;
    let objects: Vec<PlannedJob> = pictures.iter().enumerate().map(|(i, bytes)| planned(i, &store, bytes)).collect();
    upload(&store, &objects).await?;
    let picture_bytes = pictures.iter().map(Vec::len).sum::<usize>() as f64 / pictures.len() as f64;
    for &workers in &options.workers {
        let jobs = workers as f64 * options.duration.as_secs_f64() / options.request_time.as_secs_f64();
        report(&measure(options, workers, jobs.ceil() as usize, &store, picture_bytes).await?);
    }
    Ok(())
}

async fn measure(
    options: &ScaleOptions,
    workers: usize,
    jobs: usize,
    store: &SeaweedFs,
    picture_bytes: f64,
) -> anyhow::Result<Scale> {
    let nats = NatsServer::start(&NatsOptions::default()).await?;
    let client = async_nats::connect(nats.client_url()).await?;
    let jetstream = jetstream::new(client);
    ensure!(broker::setup::setup(&jetstream, &StreamSettings::default()).await?.is_ready(), "the streams differ");
    let planned = (0..jobs).map(|i| planned(i, store, &[]));
    let mut submissions = futures::stream::iter(planned)
        .map(|job| {
            let jetstream = &jetstream;
            async move { publish_until_accepted(jetstream, &job, false).await }
        })
        .buffer_unordered(CONCURRENT);
    while let Some(submitted) = submissions.next().await {
        submitted?;
    }
    drop(submissions);
    let mut stored_bytes = BTreeMap::from([("jobs", bytes_per_message(&jetstream, JOBS_STREAM).await?)]);

    let settings = options.logs.join("scale.toml");
    std::fs::write(&settings, settings_text(nats.client_url(), store.read_only()))?;
    let before = Costs::read(&nats, store, &[]).await?;
    let started = Instant::now();
    let mut pool = Vec::new();
    for i in 0..workers {
        pool.push(spawn(options, &settings, i)?);
    }
    wait_for_annotations(&jetstream, &mut pool, jobs).await?;
    let elapsed = started.elapsed();
    let after = Costs::read(&nats, store, &pool).await?;
    for (name, stream) in [("annotations", ANNOTATIONS_STREAM), ("outcomes", OUTCOMES_STREAM)] {
        stored_bytes.insert(name, bytes_per_message(&jetstream, stream).await?);
    }
    let images_per_s = rate(&jetstream, jobs).await?;
    shut_down(pool).await?;

    let each = |cost: fn(&Costs) -> f64| (cost(&after) - cost(&before)) / jobs as f64;
    let cpu = |costs: &Costs| (costs.workers + costs.nats + costs.store).as_secs_f64();
    let cores = std::thread::available_parallelism()?.get() as f64;
    Ok(Scale {
        workers,
        jobs,
        images_per_s,
        engine_share: images_per_s * options.request_time.as_secs_f64() / workers as f64,
        cpu_share: (cpu(&after) - cpu(&before)) / elapsed.as_secs_f64() / cores,
        job: JobCost {
            worker_cpu_ms: each(|costs| costs.workers.as_secs_f64() * 1e3),
            nats_cpu_ms: each(|costs| costs.nats.as_secs_f64() * 1e3),
            store_cpu_ms: each(|costs| costs.store.as_secs_f64() * 1e3),
            nats_messages_in: each(|costs| costs.traffic.in_messages as f64),
            nats_messages_out: each(|costs| costs.traffic.out_messages as f64),
            nats_bytes_in: each(|costs| costs.traffic.in_bytes as f64),
            nats_bytes_out: each(|costs| costs.traffic.out_bytes as f64),
            stored_bytes,
            picture_bytes,
        },
    })
}

/// What the processes have used since their start.
struct Costs {
    workers: Duration,
    nats: Duration,
    store: Duration,
    traffic: NatsTraffic,
}

impl Costs {
    async fn read(nats: &NatsServer, store: &SeaweedFs, pool: &[Child]) -> anyhow::Result<Self> {
        let of = |id: Option<u32>| cpu_time(id.context("a process has ended")?);
        Ok(Self {
            workers: pool.iter().map(|worker| of(worker.id())).sum::<anyhow::Result<Duration>>()?,
            nats: of(nats.process_id())?,
            store: of(store.process_id())?,
            traffic: nats.traffic().await.context("the NATS server does not report its traffic")?,
        })
    }
}

/// Pictures with edges, gradients and noise, which take about as many bytes as photographs of their size.
fn pictures() -> anyhow::Result<Vec<Vec<u8>>> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut picture = || {
        let (tint, step) = (random.random::<u8>(), random.random_range(8..32));
        let pixels: Vec<u8> = (0..SIDE * SIDE)
            .flat_map(|i| {
                let (x, y) = (i % SIDE, i / SIDE);
                let noise = random.random_range(0..24);
                [(x / step * step) as u8, (y as u8).wrapping_add(noise), tint.wrapping_add(noise)]
            })
            .collect();
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).write_image(
            &pixels,
            SIDE,
            SIDE,
            ExtendedColorType::Rgb8,
        )?;
        Ok(bytes)
    };
    (0..PICTURES).map(|_| picture()).collect()
}

/// Job `i`, which names one of the pictures.
fn planned(i: usize, store: &SeaweedFs, picture: &[u8]) -> PlannedJob {
    let key = format!("scale/{:04}/picture-{:08}.jpg", i % PICTURES / 8, i % PICTURES);
    plan::plain_job(&format!("scale-{i}"), &store.admin().bucket, &key, picture.to_vec())
}

fn settings_text(nats_url: &str, access: &S3Access) -> String {
    format!(
        "[nats]\nurl = \"{nats_url}\"\n[s3]\nendpoint = \"{}\"\npath_style = true\naccess_key = \"{}\"\n\
         secret_key = \"{}\"\nallow = [\"{}\"]\n[worker]\nslots = 8\n",
        access.endpoint, access.access_key, access.secret_key, access.bucket
    )
}

fn spawn(options: &ScaleOptions, settings: &std::path::Path, index: usize) -> anyhow::Result<Child> {
    let log = std::fs::File::create(options.logs.join(format!("scale-{index}.log")))?;
    let mut command = Command::new(&options.soak);
    command.args(["worker", "--request-time"]).arg(options.request_time.as_millis().to_string());
    command.arg("--settings").arg(settings);
    // The pipe is closed when this process ends, and then the worker exits.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    command.spawn().with_context(|| options.soak.display().to_string())
}

async fn wait_for_annotations(jetstream: &jetstream::Context, pool: &mut [Child], jobs: usize) -> anyhow::Result<()> {
    let (mut last, mut changed) = (0, Instant::now());
    loop {
        let annotated = jetstream.get_stream(ANNOTATIONS_STREAM).await?.cached_info().state.messages;
        if annotated >= jobs as u64 {
            return Ok(());
        }
        for worker in &mut *pool {
            if let Some(status) = worker.try_wait()? {
                bail!("a worker ended early: {status}");
            }
        }
        if annotated != last {
            (last, changed) = (annotated, Instant::now());
        } else if changed.elapsed() > NO_PROGRESS_LIMIT {
            bail!("{annotated} of {jobs} jobs are annotated, and no more for {NO_PROGRESS_LIMIT:?}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Annotations per second by the times at which the stream stored them.
async fn rate(jetstream: &jetstream::Context, jobs: usize) -> anyhow::Result<f64> {
    let stream = jetstream.get_stream(ANNOTATIONS_STREAM).await?;
    let (from, to) = (1 + (jobs as f64 * MARGIN) as u64, (jobs as f64 * (1.0 - MARGIN)) as u64);
    ensure!(to > from, "{jobs} jobs are too few");
    let (first, last) = (stream.get_raw_message(from).await?.time, stream.get_raw_message(to).await?.time);
    Ok((to - from) as f64 / (last - first).as_seconds_f64())
}

async fn bytes_per_message(jetstream: &jetstream::Context, stream: &str) -> anyhow::Result<f64> {
    let stream = jetstream.get_stream(stream).await?;
    let state = &stream.cached_info().state;
    Ok(state.bytes as f64 / state.messages.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_different_and_take_as_many_bytes_as_small_photographs() {
        let pictures = pictures().unwrap();
        let different: std::collections::BTreeSet<_> = pictures.iter().collect();
        assert_eq!((pictures.len(), different.len()), (PICTURES, PICTURES));
        assert!(pictures.iter().all(|picture| (8_000..80_000).contains(&picture.len())));
    }
}
