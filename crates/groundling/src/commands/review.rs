//! `groundling review`: a page of annotations and failures, and what the marks of its readers amount to.

mod judged;

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{anyhow, bail};
use archive::failures::Failure;
use archive::pool::Pool;
use archive::sample::{SampledAnnotations, sample_annotations, sample_failures};
use broker::connection;
use review::{FailedItem, Page, PageItem, SpotCheck, page};
use serde_json::json;
use wire::identity::sha256_hex;
use wire::subjects::Dataset;
use wire::v1::{ImageAnnotation, S3Object};

use super::annotate::page_writer;
use super::failures::text;
use super::known_datasets;
use crate::args::Format;
use crate::counted::counted;
use crate::exit::{Misuse, Outcome};
use crate::page_pictures::{LeftOut, PagePictures};
use crate::progress::watched;
use crate::review_args::{Links, ReviewArgs};
use crate::review_items::{name_of, task_answer};
use crate::settings::Settings;
use crate::{files, stderr, stdout};

/// A page that was made.
struct Made {
    page: Page,
    sampled: SampledAnnotations,
    /// All failures of the dataset.
    failures: u64,
    left_out: LeftOut,
    bytes: usize,
}

pub(crate) async fn run(args: ReviewArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let (Some(dataset), Some(out)) = (&args.dataset, &args.out) else { return judged::report(&args) };
    let dataset: Dataset = dataset.parse().map_err(|error| Misuse(anyhow!("--dataset: {error}")))?;
    page_writer::check("--out", out, None).map_err(Misuse)?;
    let settings = Settings::load(settings)?.with_stores(&args.stores);
    let links = (args.links == Links::Presigned).then_some(args.expires_in);
    let pictures = PagePictures::open(&settings, links).await?;
    let (nats, streams) = settings.for_setup()?;
    let client = connection::connect(&nats, "groundling review").await?;
    let pool = Pool::new(&client, &nats, streams);

    let read = AtomicU64::new(0);
    let count = |read_so_far| read.store(read_so_far, Ordering::Relaxed);
    let sampling = sample_annotations(&pool, &dataset, args.sample, args.seed, count);
    let sampled = watched(sampling, || format!("{} messages read", read.load(Ordering::Relaxed))).await?;
    let (chosen, failures) = match args.failures {
        0 => (Vec::new(), 0),
        most => sample_failures(&pool, &dataset, most, args.seed).await?,
    };
    if sampled.annotations.is_empty() && chosen.is_empty() {
        bail!(known_datasets::sentence(&pool, &dataset));
    }
    if sampled.annotations.is_empty() {
        known_datasets::report(&pool, std::slice::from_ref(&dataset)).await;
    }
    let shown = AtomicU64::new(0);
    let count = || {
        shown.fetch_add(1, Ordering::Relaxed);
    };
    let making = make(&dataset, &sampled, &chosen, &pictures, count);
    let page_content = watched(making, || format!("{} pictures read", shown.load(Ordering::Relaxed))).await;
    let html = page(&page_content);
    files::replace(out, |file| Ok(file.write_all(html.as_bytes())?))?;
    let made = Made { page: page_content, sampled, failures, left_out: pictures.left_out(), bytes: html.len() };
    summarize(&args, out, &made)?;
    let is_whole = made.sampled.unreadable == 0 && made.left_out.refused == 0;
    Ok(if is_whole { Outcome::Done } else { Outcome::PartlyFailed })
}

async fn make(
    dataset: &Dataset,
    sampled: &SampledAnnotations,
    failures: &[Failure],
    pictures: &PagePictures,
    watch: impl FnMut(),
) -> Page {
    let annotations = &sampled.annotations;
    let facts = annotations.iter().map(|annotation| annotation.picture.clone()).collect();
    let shown = pictures.of_annotations(facts, watch).await;
    let items = annotations.iter().zip(shown).map(|(annotation, picture)| {
        let name = name_of(annotation);
        PageItem {
            annotation_id: annotation.annotation_id.clone(),
            picture,
            annotations: annotation.results.iter().map(|result| task_answer(&name, result)).collect(),
        }
    });
    let shown = pictures.of_failures(failures.iter().map(object).collect()).await;
    Page {
        title: format!("Annotations of {dataset}"),
        items: items.collect(),
        spot_check: Some(SpotCheck { page_id: page_id(annotations), dataset: dataset.to_string() }),
        failures: failures.iter().zip(shown).map(|(failure, picture)| failed_item(failure, picture)).collect(),
    }
}

/// The same for the same annotations.
fn page_id(annotations: &[ImageAnnotation]) -> String {
    let mut ids: Vec<&str> = annotations.iter().map(|annotation| annotation.annotation_id.as_str()).collect();
    ids.sort_unstable();
    sha256_hex(ids.join("\n").as_bytes()).chars().take(16).collect()
}

/// The object of a failed job.
fn object(failure: &Failure) -> Option<S3Object> {
    let record = &failure.record;
    let (bucket, key) = (record.bucket.clone()?, record.key.clone()?);
    Some(S3Object { bucket, key, version_id: record.version_id.clone(), etag: None })
}

fn failed_item(failure: &Failure, picture: Option<review::Picture>) -> FailedItem {
    let record = &failure.record;
    let job = record.job_id.as_ref().map(|id| ("job", id.clone()));
    let facts = [
        ("time", text::time(failure.published)),
        ("deliveries", record.deliveries.to_string()),
        ("sequence", failure.sequence.to_string()),
    ];
    FailedItem {
        picture,
        name: failure.address().or_else(|| record.job_id.clone()).unwrap_or_else(|| "no picture".to_owned()),
        reason: record.reason().token(),
        message: record.message.clone(),
        facts: job.into_iter().chain(facts).collect(),
    }
}

fn summarize(args: &ReviewArgs, out: &Path, made: &Made) -> anyhow::Result<()> {
    let Made { page, sampled, failures, left_out, bytes } = made;
    left_out.report();
    if sampled.unreadable > 0 {
        stderr::message!("groundling: {} left out: not an annotation", counted(sampled.unreadable, "message"));
    }
    if args.format == Format::Json {
        return stdout::write_json(&json!({
            "dataset": args.dataset, "out": out, "bytes": bytes, "seed": args.seed,
            "page": page.spot_check.as_ref().map(|check| &check.page_id),
            "annotations": page.items.len(), "read": sampled.read, "unreadable": sampled.unreadable,
            "failures": page.failures.len(), "failures_read": failures, "pictures_missing": left_out.missing,
            "pictures_changed": left_out.changed, "pictures_unreadable": left_out.unreadable,
            "pictures_refused": left_out.refused,
        }));
    }
    Ok(stdout::write_line(format_args!(
        "{}: {} and {} of {}, {:.1} MB ({} read)",
        out.display(),
        counted(page.items.len() as u64, "annotation"),
        page.failures.len(),
        counted(*failures, "failure"),
        *bytes as f64 / 1e6,
        counted(sampled.read, "message")
    ))?)
}
