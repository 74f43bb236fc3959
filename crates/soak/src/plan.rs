//! The jobs of a run, with their expected results.

use anyhow::Context;
use archive::object::SourceObject;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use kosmos2::processor::image::{DecodeOptions, decode};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandbox::DemoData;
use serde::Deserialize;
use wire::Message;
use wire::identity::sha256_hex;
use wire::v1::{self, FailureReason, ImageJob, image_job, task};
use worker::model_job::ModelJob;

use crate::feeder;
use crate::ingest::{self, EventObject};
use crate::s3_proxy::S3Fault;
use crate::stub_engine;

/// The dataset of most jobs.
pub const DATASET: &str = "soak";
/// The dataset of jobs of which half or all have objects that can never be read.
pub const POISONED_DATASET: &str = "poisoned";
/// Maximum jobs of one poisoned block. Each attempt at a stalled object takes a full timeout.
const BLOCK: usize = 8;
/// At most one of this many jobs is poisoned.
const JOBS_PER_POISONED: usize = 25;
/// One of this many jobs comes from a feeder.
const JOBS_PER_FED: usize = 10;
/// Side of the generated pictures in pixels.
const SIDE: u32 = 8;

/// One job.
#[derive(Debug, Clone)]
pub struct PlannedJob {
    /// The job id and `Nats-Msg-Id`. The bytes of an invalid job do not contain it.
    pub id: String,
    /// The dataset of the job and its subject.
    pub dataset: &'static str,
    /// The bytes of the message.
    pub payload: Vec<u8>,
    /// The object to upload before: key and bytes.
    pub object: Option<(String, Vec<u8>)>,
    /// The results that are correct.
    pub expected: Expected,
}

/// The correct results of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// The texts of its annotation, if an annotation is correct.
    pub texts: Option<Vec<String>>,
    /// The reasons with which a failure is correct.
    pub reasons: Vec<FailureReason>,
}

/// One entry of the small model's goldens.
#[derive(Debug, Deserialize)]
struct Golden {
    file: String,
    prompt: String,
    text: String,
}

impl PlannedJob {
    /// The digest that identifies the job in a failure.
    pub fn sha256(&self) -> String {
        sha256_hex(&self.payload)
    }
}

/// Jobs for the stub. Their pictures are unique; some are missing, damaged, or have faults of the store.
///
/// # Errors
/// If a picture cannot be encoded.
pub fn stub_jobs(count: usize, seed: u64, bucket: &str) -> anyhow::Result<Vec<PlannedJob>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|i| stub_job(i, &mut random, bucket)).collect()
}

fn stub_job(i: usize, random: &mut ChaCha8Rng, bucket: &str) -> anyhow::Result<PlannedJob> {
    let png = picture(random)?;
    let id = format!("job-{i}");
    let etag = random.random_bool(0.5).then(|| md5_hex(&png));
    let plain = |key: String, bytes: Vec<u8>, expected: Expected| -> anyhow::Result<PlannedJob> {
        let job = job(&id, bucket, &key, etag.clone());
        let expected = fill(expected, &job, &bytes)?;
        Ok(PlannedJob {
            id: id.clone(),
            dataset: DATASET,
            payload: job.encode_to_vec(),
            object: Some((key, bytes)),
            expected,
        })
    };
    let fails = |reason| Expected { texts: None, reasons: vec![reason] };
    let good = Expected { texts: Some(Vec::new()), reasons: Vec::new() };
    use FailureReason as Reason;
    let dataset = DATASET;
    match random.random_range(0..100) {
        0..3 => {
            let missing = plain(format!("missing/{i}"), png, fails(Reason::ObjectNotFound))?;
            Ok(PlannedJob { object: None, ..missing })
        }
        3..5 => {
            let half = png[..png.len() / 2].to_vec();
            let job = job(&id, bucket, &format!("cut/{i}"), None);
            let object = Some((format!("cut/{i}"), half));
            let expected = fails(Reason::UndecodablePicture);
            Ok(PlannedJob { payload: job.encode_to_vec(), object, expected, id, dataset })
        }
        5..7 => {
            let job = job(&id, bucket, &format!("text/{i}"), None);
            let object = Some((format!("text/{i}"), b"this is no picture".to_vec()));
            let expected = fails(Reason::UnsupportedPicture);
            Ok(PlannedJob { payload: job.encode_to_vec(), object, expected, id, dataset })
        }
        7..9 => {
            let payload = format!("\u{7f}\u{7f} no message {i}").into_bytes();
            Ok(PlannedJob { payload, object: None, expected: fails(Reason::InvalidJob), id, dataset })
        }
        9..11 => {
            let job = job(&id, bucket, &format!("pinned/{i}"), Some("0123456789abcdef0123456789abcdef".into()));
            let object = Some((format!("pinned/{i}"), png));
            let expected = fails(Reason::ObjectChanged);
            Ok(PlannedJob { payload: job.encode_to_vec(), object, expected, id, dataset })
        }
        11..13 => {
            let job = job(&id, "elsewhere", &format!("x/{i}"), None);
            let expected = fails(Reason::ObjectForbidden);
            Ok(PlannedJob { payload: job.encode_to_vec(), object: None, expected, id, dataset })
        }
        13 => plain(format!("down/{i}"), png, fails(Reason::RetriesExhausted)),
        14..22 => {
            let (fault, name) = S3Fault::TEMPORARY[random.random_range(0..S3Fault::TEMPORARY.len())];
            // A response that is definite ends the job at once.
            let reasons = match fault {
                S3Fault::Forbidden => vec![Reason::ObjectForbidden],
                S3Fault::NotFound => vec![Reason::ObjectNotFound],
                S3Fault::ChangedEtag if etag.is_some() => vec![Reason::ObjectChanged],
                _ => Vec::new(),
            };
            let key = format!("flaky-{name}-{}/{i}", random.random_range(1..4));
            plain(key, png, Expected { reasons, ..good })
        }
        _ => plain(format!("good/{i}"), png, good),
    }
}

/// Jobs of the poisoned dataset: a block for each of `faults`, in which every object or every second one always has the
/// fault. `jobs` is the number of all jobs of the run, of which they are a small part.
///
/// # Errors
/// If a picture cannot be encoded.
pub fn poisoned_blocks(
    faults: &[S3Fault],
    jobs: usize,
    all: bool,
    seed: u64,
    bucket: &str,
) -> anyhow::Result<Vec<Vec<PlannedJob>>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0xb10c);
    let blocks = faults.len().max(1);
    let size = (jobs / JOBS_PER_POISONED / blocks).clamp(2, BLOCK).min(jobs / 2 / blocks);
    let mut block = |(block, &fault): (usize, &S3Fault)| {
        let every = if all || random.random_bool(0.5) { 1 } else { 2 };
        let poison = |i: usize| i.is_multiple_of(every).then_some(fault);
        (0..size).map(|i| poisoned_job(&format!("{block}-{i}"), poison(i), &mut random, bucket)).collect()
    };
    faults.iter().enumerate().map(&mut block).collect()
}

fn poisoned_job(
    name: &str,
    poison: Option<S3Fault>,
    random: &mut ChaCha8Rng,
    bucket: &str,
) -> anyhow::Result<PlannedJob> {
    let (id, png) = (format!("poisoned-{name}"), picture(random)?);
    let known = S3Fault::PERMANENT.into_iter().find(|(fault, _)| Some(*fault) == poison);
    let (key, expected) = match known {
        Some((_, fault)) => {
            let reasons = vec![FailureReason::RetriesExhausted];
            (format!("poisoned-{fault}/{name}"), Expected { texts: None, reasons })
        }
        None => (format!("good/poisoned-{name}"), Expected { texts: Some(Vec::new()), reasons: Vec::new() }),
    };
    let job = ImageJob { dataset: POISONED_DATASET.to_owned(), ..job(&id, bucket, &key, None) };
    let expected = fill(expected, &job, &png)?;
    Ok(PlannedJob { id, dataset: POISONED_DATASET, payload: job.encode_to_vec(), object: Some((key, png)), expected })
}

/// The jobs that feeders create for the objects of their sources, in a run of this many jobs for the stub.
///
/// # Errors
/// If a picture cannot be encoded.
pub fn fed_jobs(jobs: usize, seed: u64, bucket: &str) -> anyhow::Result<Vec<PlannedJob>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0xfed);
    let job = |i: usize| {
        let dataset = feeder::DATASETS[i % feeder::DATASETS.len()];
        let png = picture(&mut random)?;
        let key = format!("{}{i}.png", feeder::prefix(dataset, i / feeder::DATASETS.len() % feeder::SOURCES));
        let object = SourceObject {
            bucket: bucket.to_owned(),
            key: key.clone(),
            etag: Some(md5_hex(&png)),
            ..SourceObject::default()
        };
        let job = feeder::recipe(dataset)?.job(&object);
        let expected = fill(Expected { texts: Some(Vec::new()), reasons: Vec::new() }, &job, &png)?;
        let (id, payload) = (job.job_id.clone(), job.encode_to_vec());
        Ok(PlannedJob { id, dataset, payload, object: Some((key, png)), expected })
    };
    (0..jobs / JOBS_PER_FED).map(job).collect()
}

/// The jobs for objects whose events are ingested.
///
/// # Errors
/// If a picture cannot be encoded.
pub fn jobs_from_events(count: usize, seed: u64, bucket: &str) -> anyhow::Result<Vec<(PlannedJob, EventObject)>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0xe7e);
    let job = |i: usize| {
        let png = picture(&mut random)?;
        let (key, etag) = (format!("{}/ö +#%23 {i}.png", ingest::DATASET), md5_hex(&png));
        let job = ingest::job(bucket, &key, &etag)?;
        let expected = fill(Expected { texts: Some(Vec::new()), reasons: Vec::new() }, &job, &png)?;
        let (id, payload) = (job.job_id.clone(), job.encode_to_vec());
        let object = EventObject { bucket: bucket.to_owned(), key: key.clone(), etag };
        Ok((PlannedJob { id, dataset: ingest::DATASET, payload, object: Some((key, png)), expected }, object))
    };
    (0..count).map(job).collect()
}

/// Fills in the expected texts of the stub.
fn fill(mut expected: Expected, job: &ImageJob, bytes: &[u8]) -> anyhow::Result<Expected> {
    if let Some(texts) = &mut expected.texts {
        let options = DecodeOptions { max_pixels: 1 << 20, ..DecodeOptions::default() };
        let pixels = stub_engine::digest_of(&decode(bytes, &options).context("could not decode a generated picture")?);
        let ModelJob { queries, .. } = ModelJob::new(job.clone())?;
        texts.extend(queries.iter().map(|query| stub_engine::text(&pixels, query)));
    }
    Ok(expected)
}

/// Jobs for the small model: its pictures and prompts, with the reference's texts.
///
/// # Errors
/// If the demo data cannot be read.
pub fn real_jobs(count: usize, seed: u64, bucket: &str) -> anyhow::Result<Vec<PlannedJob>> {
    let demo = DemoData::locate()?;
    let goldens = std::fs::read(demo.scenes_dir.join("goldens.json")).context("could not read the goldens")?;
    let goldens: Vec<Golden> = serde_json::from_slice(&goldens)?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut jobs = Vec::with_capacity(count);
    for i in 0..count {
        let golden = &goldens[random.random_range(0..goldens.len())];
        let bytes = std::fs::read(demo.scenes_dir.join(&golden.file))?;
        let (fault, name) = S3Fault::TEMPORARY[random.random_range(0..S3Fault::TEMPORARY.len())];
        let lasting = matches!(fault, S3Fault::Forbidden | S3Fault::NotFound | S3Fault::ChangedEtag);
        let key = match random.random_bool(0.1) && !lasting {
            true => format!("flaky-{name}-2/{i}"),
            false => format!("good/{i}"),
        };
        let prompt = v1::RawPrompt { text: golden.prompt.clone(), phrase_boxes: Vec::new() };
        let task = v1::Task { task_id: "t".into(), kind: Some(task::Kind::Raw(prompt)) };
        let id = format!("job-{i}");
        let job = ImageJob { tasks: vec![task], ..job(&id, bucket, &key, None) };
        let expected = Expected { texts: Some(vec![golden.text.clone()]), reasons: Vec::new() };
        jobs.push(PlannedJob {
            id,
            dataset: DATASET,
            payload: job.encode_to_vec(),
            object: Some((key, bytes)),
            expected,
        });
    }
    Ok(jobs)
}

/// A job with one task, for an object with these bytes.
pub fn plain_job(id: &str, bucket: &str, key: &str, bytes: Vec<u8>) -> PlannedJob {
    let job = job(id, bucket, key, None);
    let job = ImageJob { tasks: job.tasks.into_iter().take(1).collect(), ..job };
    let object = Some((key.to_owned(), bytes));
    PlannedJob {
        id: id.to_owned(),
        dataset: DATASET,
        payload: job.encode_to_vec(),
        object,
        expected: Expected::default(),
    }
}

fn job(id: &str, bucket: &str, key: &str, etag: Option<String>) -> ImageJob {
    let caption = v1::Task { task_id: "brief".into(), kind: Some(task::Kind::BriefCaption(v1::BriefCaption {})) };
    let question = v1::Question { question: format!("What is it that {id} shows?") };
    let question = v1::Task { task_id: "question".into(), kind: Some(task::Kind::Question(question)) };
    ImageJob {
        job_id: id.to_owned(),
        dataset: DATASET.to_owned(),
        source: Some(image_job::Source::S3(v1::S3Object {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version_id: None,
            etag,
        })),
        tasks: vec![caption, question],
        ..ImageJob::default()
    }
}

fn picture(random: &mut ChaCha8Rng) -> anyhow::Result<Vec<u8>> {
    let pixels: Vec<u8> = (0..SIDE * SIDE * 3).map(|_| random.random()).collect();
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(&pixels, SIDE, SIDE, ExtendedColorType::Rgb8)?;
    Ok(png)
}

fn md5_hex(bytes: &[u8]) -> String {
    use md5::Digest;
    md5::Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3_proxy;

    #[test]
    fn half_or_all_of_a_poisoned_block_meets_its_fault_for_ever() {
        let faults: Vec<S3Fault> = S3Fault::PERMANENT.iter().cycle().take(40).map(|(fault, _)| *fault).collect();
        let blocks = poisoned_blocks(&faults, 10_000, false, 1, "b").unwrap();
        assert_eq!(blocks.len(), faults.len());
        let mut shares = std::collections::BTreeSet::new();
        for (block, fault) in blocks.iter().zip(faults) {
            let is_poisoned = |job: &&PlannedJob| {
                let (key, _) = job.object.as_ref().unwrap();
                let is_poisoned = s3_proxy::fault_of(key) == Some((fault, u32::MAX));
                assert_eq!(is_poisoned, job.expected.texts.is_none(), "{key}");
                assert_eq!(is_poisoned, job.expected.reasons == [FailureReason::RetriesExhausted], "{key}");
                is_poisoned
            };
            assert_eq!(block.len(), BLOCK);
            shares.insert(block.iter().filter(is_poisoned).count());
        }
        assert_eq!(shares, [BLOCK / 2, BLOCK].into());
    }

    #[test]
    fn poisoned_jobs_are_few() {
        let count = |jobs, blocks| {
            let faults = vec![S3Fault::Stall; blocks];
            poisoned_blocks(&faults, jobs, true, 1, "b").unwrap().iter().map(Vec::len).sum::<usize>()
        };
        assert_eq!([count(10_000, 10), count(1500, 40), count(100, 3), count(10, 40), count(10, 0)], [80, 80, 6, 0, 0]);
    }
}
