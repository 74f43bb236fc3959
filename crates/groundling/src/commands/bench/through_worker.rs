//! Pictures through a whole worker (intake, S3, decoding, the engine, publishing) and through its engine alone.

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
use worker::events::JobEvent;
use worker::model_job::ModelJob;

use super::measure::Spread;
use crate::args::{BenchArgs, Format};
use crate::commands::servers::{Servers, brief_caption};
use crate::exit::{Misuse, Outcome};
use crate::{model_dir, stderr, stdout};

const DATASET: &str = "bench";
/// Jobs that are submitted side by side.
const SUBMITTING: usize = 64;

/// One number of slots' figures, medians over the repetitions.
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
    job_stages: Stages,
}

/// Seconds that a job takes from stage to stage, means over all.
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
    /// Adds one job's share of the mean.
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

/// What was done in which time.
struct Done {
    seconds: f64,
    tokens: usize,
    stages: Stages,
}

pub(super) async fn run(args: &BenchArgs) -> anyhow::Result<Outcome> {
    let misuse = |error| Misuse(anyhow::Error::from(error));
    let compute = Compute::open(args.device.parse().map_err(misuse)?, args.dtype.as_deref()).map_err(misuse)?;
    let dir = model_dir::require(args.model.as_ref())?;
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
        let (mut alone, mut whole) = (Vec::new(), Vec::new());
        // In turn, so that what the machine does beside them meets both.
        for number in 0..args.warmup + args.repeat {
            let done = (run.alone(args.new_tokens).await?, run.whole(number, args.new_tokens).await?);
            if number >= args.warmup {
                alone.push(done.0);
                whole.push(done.1);
            }
        }
        print(&report(&compute, args.new_tokens, &run, &alone, &whole), args.format)?;
    }
    servers.stop().await?;
    Ok(Outcome::Done)
}

/// An engine with this many slots, just long enough for what is asked.
fn start(dir: &Path, compute: &Compute, slots: usize, new_tokens: usize) -> anyhow::Result<Engine> {
    let model = kosmos2::Kosmos2::open(dir, compute).context("the model cannot be opened")?;
    let asked = model.processor().encode(&query_of(new_tokens)?)?;
    let slot_tokens = model.processor().decoding(&asked)?.max_tokens();
    model_dir::start_engine(model, EngineOptions { slots: Some(slots), slot_tokens, ..EngineOptions::default() })
}

fn pixels(engine: &Engine, file: &Path) -> anyhow::Result<PixelValues> {
    let named = || file.display().to_string();
    let picture = decode(&std::fs::read(file).with_context(named)?, &DecodeOptions::default()).with_context(named)?;
    Ok(engine.processor().images().pixel_values(&picture))
}

fn options(new_tokens: usize) -> v1::GenerationOptions {
    v1::GenerationOptions { max_new_tokens: u32::try_from(new_tokens).ok(), ..v1::GenerationOptions::default() }
}

/// What a worker makes of the jobs here.
fn query_of(new_tokens: usize) -> anyhow::Result<Query> {
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
    /// Prepared pictures through the engine.
    async fn alone(&self, new_tokens: usize) -> anyhow::Result<Done> {
        let query = query_of(new_tokens)?;
        let start = Instant::now();
        let answers = (0..self.count).map(|number| {
            let pixels = &self.pixels[number % self.pixels.len()];
            let request = || Request { pixels: pixels.clone(), queries: vec![query.clone()], deadline: None };
            async move { Engine::submit(&self.engine, request()).await }
        });
        let answers = stream::iter(answers).buffer_unordered(self.engine.jobs_in_hand());
        let tokens = answers.try_fold(0, async |tokens, response| {
            Ok(tokens + response.texts.iter().map(|text| text.token_ids.len()).sum::<usize>())
        });
        let tokens = tokens.await?;
        Ok(Done { seconds: start.elapsed().as_secs_f64(), tokens, stages: Stages::default() })
    }

    /// Jobs through a worker, from its start to the last annotation; the jobs are in the queue before.
    async fn whole(&self, number: usize, new_tokens: usize) -> anyhow::Result<Done> {
        let jobs = (0..self.count).map(|job| {
            let picture = self.pictures[job % self.pictures.len()].clone();
            // A job that was done before would not be done again.
            async move {
                self.servers
                    .enqueue(&format!("{}-{number}-{job}", self.batch), picture, Some(options(new_tokens)))
                    .await
            }
        });
        stream::iter(jobs).buffer_unordered(SUBMITTING).try_collect::<Vec<()>>().await?;
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
        let failed = self.servers.work(self.engine.clone(), self.identity.clone(), self.count, count).await?;
        if failed > 0 {
            return Err(anyhow!("{failed} of {} jobs failed", self.count));
        }
        Ok(Done { seconds: (last - start).as_secs_f64(), tokens, stages })
    }
}

fn report(compute: &Compute, new_tokens: usize, run: &Run, alone: &[Done], whole: &[Done]) -> Report {
    let rate = |done: &[Done]| run.count as f64 / Spread::of(done.iter().map(|done| done.seconds).collect()).median;
    let tokens = |done: &[Done]| done.first().map_or(0, |done| done.tokens);
    Report {
        device: compute.device_name(),
        dtype: compute.format_name(),
        batch: run.batch,
        pictures: run.count,
        max_new_tokens: new_tokens,
        engine_tokens: tokens(alone),
        worker_tokens: tokens(whole),
        engine_images_per_s: rate(alone),
        worker_images_per_s: rate(whole),
        worker_share: rate(whole) / rate(alone),
        job_stages: whole.last().map_or_else(Stages::default, |done| done.stages),
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
            let Stages { intake_s, fetch_s, decode_s, queue_s, vision_s, prefill_s, generate_s, total_s } =
                report.job_stages;
            stdout::write_line(format_args!(
                "a job on the way: intake {intake_s:.3} s, fetch {fetch_s:.3}, decode {decode_s:.3}, queue {queue_s:.3}, vision {vision_s:.3}, prefill {prefill_s:.3}, generate {generate_s:.3}, in all {total_s:.3}"
            ))?;
        }
    }
    Ok(())
}
