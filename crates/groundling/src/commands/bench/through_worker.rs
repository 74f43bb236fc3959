//! Compares the throughput of a whole worker (intake, S3, decoding, engine, publishing) with that of its engine alone.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, anyhow};
use engine::{Annotator, Engine, EngineOptions, Request};
use futures::{StreamExt, TryStreamExt, stream};
use kosmos2::Query;
use kosmos2::checkpoint::ModelIdentity;
use kosmos2::compute::Compute;
use kosmos2::processor::image::{DecodeOptions, PixelValues, decode};
use serde::Serialize;
use wire::v1::{self, ImageJob};
use worker::WorkerTelemetry;
use worker::events::JobEvent;
use worker::model_job::ModelJob;

use super::collector::Collector;
use super::measure::Spread;
use crate::args::{BenchArgs, Format};
use crate::commands::servers::{Servers, brief_caption};
use crate::exit::{Misuse, Outcome};
use crate::{model_dir, stderr, stdout};

const DATASET: &str = "bench";
/// Number of jobs enqueued concurrently.
const CONCURRENT_ENQUEUES: usize = 64;

/// The results for one number of slots, as medians over the repetitions.
#[derive(Debug, Serialize)]
struct Report {
    device: &'static str,
    dtype: &'static str,
    batch: usize,
    pictures: usize,
    max_new_tokens: usize,
    engine_tokens: usize,
    worker_tokens: usize,
    engine_images_per_s: f64,
    worker_images_per_s: f64,
    worker_share: f64,
    /// The worker while it exports telemetry.
    #[serde(skip_serializing_if = "Option::is_none")]
    telemetry_images_per_s: Option<f64>,
    /// The part of the worker's rate that remains with telemetry.
    #[serde(skip_serializing_if = "Option::is_none")]
    telemetry_share: Option<f64>,
    job_stages: Stages,
}

/// Mean time of a job in each stage, in seconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Stages {
    intake_s: f64,
    fetch_s: f64,
    decode_s: f64,
    queue_s: f64,
    vision_s: f64,
    prefill_s: f64,
    generate_s: f64,
    total_s: f64,
}

impl Stages {
    /// Adds one of `jobs` jobs to the mean.
    fn add(&mut self, timings: &v1::StageTimings, jobs: usize) {
        let v1::StageTimings { intake, fetch, decode, queue, vision, prefill, generate, total } = timings;
        let means = [
            (&mut self.intake_s, intake),
            (&mut self.fetch_s, fetch),
            (&mut self.decode_s, decode),
            (&mut self.queue_s, queue),
            (&mut self.vision_s, vision),
            (&mut self.prefill_s, prefill),
            (&mut self.generate_s, generate),
            (&mut self.total_s, total),
        ];
        for (mean, time) in means {
            let seconds = time.as_ref().map_or(0.0, |time| time.seconds as f64 + f64::from(time.nanos) * 1e-9);
            *mean += seconds / jobs as f64;
        }
    }
}

/// One measured run.
struct Measurement {
    seconds: f64,
    tokens: usize,
    stages: Stages,
}

pub(super) async fn run(args: &BenchArgs) -> anyhow::Result<Outcome> {
    let misuse = |error| Misuse(anyhow::Error::from(error));
    let compute = Compute::open(args.device.parse().map_err(misuse)?, args.dtype.as_deref()).map_err(misuse)?;
    let dir = args.model.as_deref().context("no model")?;
    let identity = ModelIdentity::of_dir(dir)?;
    let servers = Servers::start(DATASET).await?;
    let mut pictures = Vec::new();
    for (number, file) in args.through_worker.iter().enumerate() {
        let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
        pictures.push(servers.upload(&number.to_string(), bytes.into()).await?);
    }
    for &batch in &args.batch {
        let engine = start(dir, &compute, batch, args.new_tokens)?;
        let pixels =
            args.through_worker.iter().map(|file| pixels(&engine, file)).collect::<anyhow::Result<Vec<_>>>()?;
        let count = args.pictures.unwrap_or(4 * batch);
        let run = Run { servers: &servers, engine, identity: &identity, pictures: &pictures, pixels, count, batch };
        let (mut of_engine, mut of_worker, mut with_telemetry) = (Vec::new(), Vec::new(), Vec::new());
        // Alternated, so that other load on the machine affects both.
        for number in 0..args.warmup + args.repeat {
            let engine = run.engine(args.new_tokens).await?;
            let worker = run.worker(number, args.new_tokens, WorkerTelemetry::off()).await?;
            let observed = match args.with_telemetry {
                true => Some(run.worker_with_telemetry(number, args.new_tokens).await?),
                false => None,
            };
            if number >= args.warmup {
                of_engine.push(engine);
                of_worker.push(worker);
                with_telemetry.extend(observed);
            }
        }
        print(&report(&compute, args.new_tokens, &run, &of_engine, &of_worker, &with_telemetry), args.format)?;
    }
    servers.stop().await?;
    Ok(Outcome::Done)
}

/// An engine with this many slots, which are just long enough for the query.
fn start(dir: &Path, compute: &Compute, slots: usize, new_tokens: usize) -> anyhow::Result<Engine> {
    let model = kosmos2::Kosmos2::open(dir, compute).context("the model cannot be opened")?;
    let query = model.processor().encode(&brief_caption_query(new_tokens)?)?;
    let slot_tokens = model.processor().decoding(&query)?.max_tokens();
    model_dir::start_engine(model, EngineOptions { slots: Some(slots), slot_tokens, ..EngineOptions::default() })
}

fn pixels(engine: &Engine, file: &Path) -> anyhow::Result<PixelValues> {
    let name = || file.display().to_string();
    let picture = decode(&std::fs::read(file).with_context(name)?, &DecodeOptions::default()).with_context(name)?;
    Ok(engine.processor().images().pixel_values(&picture))
}

fn options(new_tokens: usize) -> v1::GenerationOptions {
    v1::GenerationOptions { max_new_tokens: u32::try_from(new_tokens).ok(), ..v1::GenerationOptions::default() }
}

/// The query of the jobs, as a worker derives it.
fn brief_caption_query(new_tokens: usize) -> anyhow::Result<Query> {
    let job = ImageJob {
        job_id: DATASET.into(),
        dataset: DATASET.into(),
        source: Some(v1::image_job::Source::S3(v1::S3Object {
            bucket: "b".into(),
            key: "k".into(),
            ..Default::default()
        })),
        tasks: vec![brief_caption()],
        options: Some(options(new_tokens)),
        ..ImageJob::default()
    };
    let query = ModelJob::new(job).map_err(|error| Misuse(error.into()))?.queries.pop();
    query.ok_or_else(|| anyhow!("a job without a task"))
}

struct Run<'a> {
    servers: &'a Servers,
    engine: Engine,
    identity: &'a ModelIdentity,
    pictures: &'a [v1::S3Object],
    pixels: Vec<PixelValues>,
    count: usize,
    batch: usize,
}

impl Run<'_> {
    /// Runs preprocessed pictures through the engine.
    async fn engine(&self, new_tokens: usize) -> anyhow::Result<Measurement> {
        let query = brief_caption_query(new_tokens)?;
        let start = Instant::now();
        let responses = (0..self.count).map(|number| {
            let pixels = &self.pixels[number % self.pixels.len()];
            let request = || Request { pixels: pixels.clone(), queries: vec![query.clone()] };
            async move { Engine::submit(&self.engine, request()).await }
        });
        let responses = stream::iter(responses).buffer_unordered(self.engine.concurrent_jobs());
        let tokens = responses.try_fold(0, async |tokens, response| {
            Ok(tokens + response.texts.iter().map(|text| text.token_ids.len()).sum::<usize>())
        });
        let tokens = tokens.await?;
        Ok(Measurement { seconds: start.elapsed().as_secs_f64(), tokens, stages: Stages::default() })
    }

    /// Like [`Self::worker`], while the worker exports its telemetry.
    async fn worker_with_telemetry(&self, number: usize, new_tokens: usize) -> anyhow::Result<Measurement> {
        let collector = Collector::start().await?;
        let telemetry = collector.telemetry()?;
        let measured = self.worker(number, new_tokens, WorkerTelemetry::from(&telemetry)).await;
        telemetry.shutdown().await;
        let (measured, exports) = (measured?, collector.exports());
        if exports == 0 {
            return Err(anyhow!("the worker exported nothing, so its telemetry was not measured"));
        }
        tracing::info!(exports, bytes = collector.bytes(), "telemetry received");
        Ok(measured)
    }

    /// Runs jobs through a worker, timed from its start to the last annotation. The jobs are enqueued before.
    async fn worker(
        &self,
        number: usize,
        new_tokens: usize,
        telemetry: WorkerTelemetry,
    ) -> anyhow::Result<Measurement> {
        let is_observed = telemetry.scraper.is_some();
        let jobs = (0..self.count).map(|job| {
            let picture = self.pictures[job % self.pictures.len()].clone();
            // With a new id in each run, since a worker does not repeat finished jobs.
            async move {
                self.servers
                    .enqueue(
                        &format!("{}-{number}-{is_observed}-{job}", self.batch),
                        picture,
                        Some(options(new_tokens)),
                    )
                    .await
            }
        });
        stream::iter(jobs).buffer_unordered(CONCURRENT_ENQUEUES).try_collect::<Vec<()>>().await?;
        let (mut tokens, mut stages, mut last, start) = (0, Stages::default(), Instant::now(), Instant::now());
        let count = |event: &JobEvent| match event {
            JobEvent::Finished { annotation, .. } => {
                tokens += annotation.results.iter().map(|result| result.generated_tokens as usize).sum::<usize>();
                stages.add(annotation.timings.as_ref().unwrap_or(&v1::StageTimings::default()), self.count);
                last = Instant::now();
            }
            JobEvent::Failed { message, .. } | JobEvent::Retried { message, .. } => {
                stderr::message!("groundling: {message}")
            }
        };
        let failed =
            self.servers.work(self.engine.clone(), self.identity.clone(), self.count, telemetry, count).await?;
        if failed > 0 {
            return Err(anyhow!("{failed} of {} jobs failed", self.count));
        }
        Ok(Measurement { seconds: (last - start).as_secs_f64(), tokens, stages })
    }
}

fn report(
    compute: &Compute,
    new_tokens: usize,
    run: &Run,
    of_engine: &[Measurement],
    of_worker: &[Measurement],
    with_telemetry: &[Measurement],
) -> Report {
    let rate =
        |runs: &[Measurement]| run.count as f64 / Spread::of(runs.iter().map(|run| run.seconds).collect()).median;
    let observed = (!with_telemetry.is_empty()).then(|| rate(with_telemetry));
    let tokens = |runs: &[Measurement]| runs.first().map_or(0, |run| run.tokens);
    Report {
        device: compute.device_name(),
        dtype: compute.format_name(),
        batch: run.batch,
        pictures: run.count,
        max_new_tokens: new_tokens,
        engine_tokens: tokens(of_engine),
        worker_tokens: tokens(of_worker),
        engine_images_per_s: rate(of_engine),
        worker_images_per_s: rate(of_worker),
        worker_share: rate(of_worker) / rate(of_engine),
        telemetry_images_per_s: observed,
        telemetry_share: observed.map(|observed| observed / rate(of_worker)),
        job_stages: of_worker.last().map_or_else(Stages::default, |run| run.stages),
    }
}

fn print(report: &Report, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => stdout::write_json(report)?,
        Format::Text => {
            stdout::write_line(format_args!(
                "{} at once, {} pictures of at most {} tokens: the engine alone {:.3} images/s, the whole worker {:.3} ({:.1} %)",
                report.batch,
                report.pictures,
                report.max_new_tokens,
                report.engine_images_per_s,
                report.worker_images_per_s,
                report.worker_share * 100.0
            ))?;
            if let (Some(rate), Some(share)) = (report.telemetry_images_per_s, report.telemetry_share) {
                stdout::write_line(format_args!(
                    "the whole worker while it exports telemetry: {rate:.3} images/s ({:.1} % of the rate without)",
                    share * 100.0
                ))?;
            }
            let Stages { intake_s, fetch_s, decode_s, queue_s, vision_s, prefill_s, generate_s, total_s } =
                report.job_stages;
            stdout::write_line(format_args!(
                "mean times of a job: intake {intake_s:.3} s, fetch {fetch_s:.3}, decode {decode_s:.3}, queue {queue_s:.3}, vision {vision_s:.3}, prefill {prefill_s:.3}, generate {generate_s:.3}, in all {total_s:.3}"
            ))?;
        }
    }
    Ok(())
}
