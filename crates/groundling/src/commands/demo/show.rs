//! The demo's results: lines on stdout, pictures with boxes, and an HTML page.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use image::codecs::png::PngEncoder;
use kosmos2::processor::image::{DecodeOptions, decode};
use review::{GroundedEntity, Page, PageItem, Picture, draw, page};
use sandbox::DemoData;
use serde_json::json;
use wire::v1::{ImageAnnotation, TaskResult};

use crate::args::Format;
use crate::files;
use crate::report::entity_line;
use crate::review_items::{grounded_entities, task_answer};
use crate::stderr::escape_control;
use crate::stdout;

pub(super) fn print(annotations: &[ImageAnnotation], format: Format) -> anyhow::Result<()> {
    for annotation in annotations {
        for result in &annotation.results {
            match format {
                Format::Json => {
                    let entities: Vec<_> = grounded_entities(result)
                        .into_iter()
                        .map(|e| json!({"phrase": e.phrase, "boxes": e.boxes, "score": e.score, "box_scores": e.box_scores}))
                        .collect();
                    let line = json!({"image": annotation.job_id, "text": result.text, "entities": entities});
                    stdout::write_json(&line)?;
                }
                Format::Text => stdout::write(format_args!("{}", lines(&annotation.job_id, result)))?,
            }
        }
    }
    Ok(())
}

/// A line with the picture and its text, and a line for each phrase.
fn lines(name: &str, result: &TaskResult) -> String {
    let mut lines = format!("{name:10}  {}\n", escape_control(&result.text));
    for entity in grounded_entities(result) {
        let line = entity_line(&entity.phrase, entity.score, &entity.boxes, &entity.box_scores);
        let _ = writeln!(lines, "{:10}    {line}", "");
    }
    lines
}

/// Writes the pictures with boxes and the page, and returns the page's path.
pub(super) fn write(annotations: &[ImageAnnotation], data: &DemoData, out: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(out).with_context(|| format!("{}: cannot be created", out.display()))?;
    let mut items = Vec::with_capacity(annotations.len());
    for annotation in annotations {
        let file = data.scenes_dir.join(&annotation.job_id);
        let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
        let picture = decode(&bytes, &DecodeOptions::default())?;
        let entities: Vec<GroundedEntity> = annotation.results.iter().flat_map(grounded_entities).collect();
        let path = out.join(&annotation.job_id).with_extension("png");
        let drawn = draw(&picture.rgb, &entities);
        files::replace(&path, |file| Ok(drawn.write_with_encoder(PngEncoder::new(file))?))?;
        items.push(PageItem {
            picture: Some(Picture::new(&picture.rgb)?),
            annotations: annotation.results.iter().map(|result| task_answer(&annotation.job_id, result)).collect(),
            ..PageItem::default()
        });
    }
    let path = out.join("index.html");
    let page = page(&Page { title: "Groundling demo".into(), items, ..Page::default() });
    files::replace(&path, |file| Ok(file.write_all(page.as_bytes())?))?;
    Ok(path)
}
