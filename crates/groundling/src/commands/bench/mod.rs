//! `groundling bench`: measures the model's throughput by stage, and compares it with what the machine allows.

mod collector;
mod continuous;
mod floor;
mod measure;
mod through_worker;

use std::path::Path;

use anyhow::{Context, anyhow};
use kosmos2::Model;
use kosmos2::checkpoint::random;
use kosmos2::compute::{Compute, DeviceChoice};
use kosmos2::config::Config;
use rayon::ThreadPoolBuilder;
use serde::Serialize;

use crate::args::{BenchArgs, Format};
use crate::exit::{Misuse, Outcome};
use crate::{model_supply, stdout};
use measure::{Spread, Workload};

/// Seed of the random weights, fixed so that runs are comparable.
const SEED: u64 = 0;

/// The results for one batch size. Times are medians in seconds.
#[derive(Debug, Serialize)]
struct Report {
    device: &'static str,
    dtype: &'static str,
    batch: usize,
    new_tokens: usize,
    prompt_tokens: usize,
    images_per_s: f64,
    tokens_per_s: f64,
    vision_s: f64,
    prefill_s: f64,
    decode_step_s: f64,
    total_s: f64,
    total_min_s: f64,
    total_max_s: f64,
    peak_memory_bytes: u64,
    floor_share: Option<f64>,
    kernels: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_per_1000_images: Option<f64>,
}

pub(crate) async fn run(mut args: BenchArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    if args.random.is_none() {
        args.model = Some(model_supply::directory_of_flag(args.model.as_ref(), settings).await?);
    }
    let args = &args;
    if !args.through_worker.is_empty() {
        return through_worker::run(args).await;
    }
    if args.pictures.is_some() && args.lengths.is_none() {
        return Err(Misuse(anyhow!("--pictures goes with --lengths or --through-worker")).into());
    }
    // Like the engine, on a thread of the pool that it computes with.
    ThreadPoolBuilder::new().build()?.install(|| measure(args))
}

fn measure(args: &BenchArgs) -> anyhow::Result<Outcome> {
    let misuse = |error| Misuse(anyhow::Error::from(error));
    let device: DeviceChoice = args.device.parse().map_err(misuse)?;
    let compute = Compute::open(device, args.dtype.as_deref()).map_err(misuse)?;
    let mut model = load(args, &compute)?;
    let config = model.config().clone();
    if let Some(lengths) = args.lengths {
        return different_lengths(args, &compute, &mut model, lengths);
    }
    let mut reports = Vec::new();
    for &batch in &args.batch {
        let workload = Workload { batch, new_tokens: args.new_tokens, repeat: args.repeat, warmup: args.warmup };
        let times = measure::run(&mut model, &workload)?;
        let (seconds, step_ms) = (times.total.median, times.decode_step.median * 1e3);
        tracing::info!(batch, images_per_s = batch as f64 / seconds, step_ms, "measured");
        reports.push(report(&compute, &workload, &config, &times, args.price_per_hour));
    }
    // Measured last, so that its memory does not count as the model's.
    let limits = floor::Limits::measure(&compute)?;
    for (report, &batch) in reports.iter_mut().zip(&args.batch) {
        let floor = limits.map(|limits| floor::seconds(&config, &compute, batch, args.new_tokens, &limits));
        report.floor_share = floor.map(|seconds| seconds / report.total_s);
    }
    print(&reports, args.format)?;
    Ok(Outcome::Done)
}

/// The results for answers of different lengths.
#[derive(Debug, Serialize)]
struct DifferentLengths {
    device: &'static str,
    dtype: &'static str,
    batch: usize,
    pictures: usize,
    min_new_tokens: usize,
    max_new_tokens: usize,
    images_per_s: f64,
    tokens_per_s: f64,
    total_s: f64,
    total_min_s: f64,
    total_max_s: f64,
    peak_memory_bytes: u64,
}

fn different_lengths(
    args: &BenchArgs,
    compute: &Compute,
    model: &mut Model,
    lengths: (usize, usize),
) -> anyhow::Result<Outcome> {
    for &batch in &args.batch {
        let workload = Workload { batch, new_tokens: lengths.1, repeat: args.repeat, warmup: args.warmup };
        let pictures = args.pictures.unwrap_or(4 * batch);
        let times = continuous::run(model, &workload, lengths, pictures)?;
        let Spread { median: total_s, min: total_min_s, max: total_max_s } = times.total;
        let report = DifferentLengths {
            device: compute.device_name(),
            dtype: compute.format_name(),
            batch,
            pictures,
            min_new_tokens: lengths.0,
            max_new_tokens: lengths.1,
            images_per_s: pictures as f64 / total_s,
            tokens_per_s: times.tokens as f64 / total_s,
            total_s,
            total_min_s,
            total_max_s,
            peak_memory_bytes: times.peak_memory_bytes,
        };
        match args.format {
            Format::Json => stdout::write_json(&report)?,
            Format::Text => stdout::write_line(format_args!(
                "{batch} at once, {pictures} pictures of {} to {} tokens: {:.3} images/s, {:.1} tokens/s, {total_s:.2} s ({total_min_s:.2}–{total_max_s:.2})",
                lengths.0, lengths.1, report.images_per_s, report.tokens_per_s
            ))?,
        }
    }
    Ok(Outcome::Done)
}

fn load(args: &BenchArgs, compute: &Compute) -> anyhow::Result<Model> {
    let Some(path) = &args.random else {
        let dir = args.model.as_deref().context("no model")?;
        return Model::load(dir, compute).context("the model cannot be opened");
    };
    let dir = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let config = Config::from_dir(dir)?;
    let parameters: usize = random::tensors(&config).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    tracing::info!(parameters, "random weights");
    Model::random(config, SEED, compute).context("the model cannot be created")
}

fn report(
    compute: &Compute,
    workload: &Workload,
    config: &Config,
    times: &measure::Times,
    price_per_hour: Option<f64>,
) -> Report {
    let Spread { median: total_s, min: total_min_s, max: total_max_s } = times.total;
    let (vision_s, prefill_s) = (times.vision.median, times.prefill.median);
    let images_per_s = workload.batch as f64 / total_s;
    Report {
        device: compute.device_name(),
        dtype: compute.format_name(),
        batch: workload.batch,
        new_tokens: workload.new_tokens,
        prompt_tokens: measure::prompt(config).input_ids.len(),
        images_per_s,
        tokens_per_s: images_per_s * workload.new_tokens as f64,
        vision_s,
        prefill_s,
        decode_step_s: times.decode_step.median,
        total_s,
        total_min_s,
        total_max_s,
        peak_memory_bytes: times.peak_memory_bytes,
        floor_share: None,
        kernels: kernels::cpu::implementation(),
        cost_per_1000_images: price_per_hour.map(|price| price / 3600.0 * 1000.0 / images_per_s),
    }
}

fn print(reports: &[Report], format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        for report in reports {
            stdout::write_json(report)?;
        }
        return Ok(());
    }
    stdout::write_line(format_args!(
        "batch  images/s  tokens/s  vision ms  prefill ms  step ms  total s (min–max)    of the limit  peak GiB"
    ))?;
    for r in reports {
        let limit = r.floor_share.map_or_else(|| "-".into(), |share| format!("{:.0} %", share * 100.0));
        let cost = r.cost_per_1000_images.map_or_else(String::new, |cost| format!("  {cost:.3} per 1000 images"));
        stdout::write_line(format_args!(
            "{:5}  {:8.3}  {:8.1}  {:9.1}  {:10.1}  {:7.2}  {:6.2} ({:.2}–{:.2})  {limit:>12}  {:8.2}{cost}",
            r.batch,
            r.images_per_s,
            r.tokens_per_s,
            r.vision_s * 1e3,
            r.prefill_s * 1e3,
            r.decode_step_s * 1e3,
            r.total_s,
            r.total_min_s,
            r.total_max_s,
            r.peak_memory_bytes as f64 / f64::from(1 << 30),
        ))?;
    }
    if let Some(r) = reports.first() {
        stdout::write_line(format_args!(
            "{}, {}, {} new tokens after {}; {} kernels",
            r.device, r.dtype, r.new_tokens, r.prompt_tokens, r.kernels
        ))?;
    }
    Ok(())
}
