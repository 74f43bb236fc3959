//! `groundling diff`: two datasets of the same pictures compared.

mod report;

use std::io::Write as _;
use std::path::Path;

use anyhow::{anyhow, bail};
use archive::diff::{Diff, DiffProgress, diff, find_annotation};
use archive::pool::Pool;
use broker::connection;
use review::{ComparisonPage, PageItem, Pair, comparison_page};
use wire::subjects::Dataset;
use wire::v1::ImageAnnotation;

use super::annotate::page_writer;
use super::known_datasets;
use crate::exit::{Misuse, Outcome};
use crate::files;
use crate::page_pictures::PagePictures;
use crate::progress::watched;
use crate::review_args::DiffArgs;
use crate::review_items::{name_of, task_answer};
use crate::settings::Settings;

pub(crate) async fn run(args: DiffArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let dataset = |name: &String| name.parse::<Dataset>().map_err(|error| Misuse(anyhow!("{name}: {error}")));
    let (a, b) = (dataset(&args.a)?, dataset(&args.b)?);
    if a == b {
        return Err(Misuse(anyhow!("both datasets are {a}: name two")).into());
    }
    let settings = Settings::load(settings)?.with_stores(&args.stores);
    let pictures = match &args.out {
        Some(out) => {
            page_writer::check("--out", out, None).map_err(Misuse)?;
            Some(PagePictures::open(&settings, None).await?)
        }
        None => None,
    };
    let (nats, streams) = settings.for_setup()?;
    let client = connection::connect(&nats, "groundling diff").await?;
    let pool = Pool::new(&client, &nats, streams);
    for dataset in [&a, &b] {
        if pool.count_annotations(dataset).await? == 0 {
            bail!(known_datasets::sentence(&pool, dataset));
        }
    }
    let progress = DiffProgress::default();
    let comparing = diff(&pool, [&a, &b], args.largest, &progress);
    let found = watched(comparing, || format!("{} messages read", progress.read())).await?;
    if let (Some(out), Some(pictures)) = (&args.out, &pictures) {
        let page = make_page(&args, &pool, &found, pictures).await?;
        files::replace(out, |file| Ok(file.write_all(comparison_page(&page).as_bytes())?))?;
    }
    let left_out = pictures.as_ref().map(PagePictures::left_out).unwrap_or_default();
    left_out.report();
    report::print(&args, &found)?;
    let is_whole = found.totals.unreadable == 0 && left_out.refused == 0;
    Ok(if is_whole { Outcome::Done } else { Outcome::PartlyFailed })
}

async fn make_page(
    args: &DiffArgs,
    pool: &Pool,
    found: &Diff,
    pictures: &PagePictures,
) -> anyhow::Result<ComparisonPage> {
    let (mut shown, mut facts) = (Vec::new(), Vec::new());
    for one in &found.largest {
        let mut sides = Vec::new();
        for sequence in one.sequences {
            // One that was removed meanwhile is shown without boxes.
            sides.push(find_annotation(pool, sequence).await?.unwrap_or_default());
        }
        facts.push(sides.iter().find_map(|annotation| annotation.picture.clone()));
        shown.push((one, sides));
    }
    let read = pictures.of_annotations(facts, || ()).await;
    let pairs = shown.into_iter().zip(read).map(|((one, sides), picture)| {
        let mut items = sides.iter().map(|annotation| item(annotation, picture.clone()));
        Pair {
            name: one.name.clone(),
            differences: report::differences(&one.difference),
            items: [items.next().unwrap_or_default(), items.next().unwrap_or_default()],
        }
    });
    Ok(ComparisonPage {
        title: format!("{} and {}", args.a, args.b),
        sides: [format!("a: {}", args.a), format!("b: {}", args.b)],
        summary: report::summary(&found.totals),
        pairs: pairs.collect(),
    })
}

fn item(annotation: &ImageAnnotation, picture: Option<review::Picture>) -> PageItem {
    let name = name_of(annotation);
    let annotations = annotation.results.iter().map(|result| task_answer(&name, result)).collect();
    PageItem { picture, annotations, ..PageItem::default() }
}
