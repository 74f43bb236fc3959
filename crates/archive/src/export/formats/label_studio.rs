//! Label Studio: a JSON list of tasks with predictions, and the labeling configuration they belong to.
//!
//! Boxes are in percent of the picture. Label Studio's importer of COCO drops scores, so predictions are written directly.

use std::io::Write;

use serde_json::{Value, json};

use crate::export::error::ExportError;
use crate::export::item::{CategorizedBox, Item};
use crate::export::shard_writer::{ShardContext, ShardWriter};
use crate::export::staged_file::{Finished, StagedFile};
use crate::export::xml::escaped;

pub(super) struct Shard {
    file: StagedFile,
    count: u64,
}

impl Shard {
    pub(super) fn create(context: &ShardContext) -> Result<Self, ExportError> {
        Ok(Self { file: context.create("tasks", ".json")?, count: 0 })
    }

    fn write(&mut self, text: &str) -> Result<(), ExportError> {
        self.file.write_all(text.as_bytes()).map_err(|error| self.file.failed(error))
    }
}

impl ShardWriter for Shard {
    fn add(&mut self, item: &Item) -> Result<(), ExportError> {
        let start = if self.count == 0 { "[" } else { ",\n" };
        self.count += 1;
        self.write(&format!("{start}{}", task(item)))
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Finished>, ExportError> {
        self.write(if self.count == 0 { "[]\n" } else { "]\n" })?;
        Ok(vec![self.file.finish()?])
    }
}

fn task(item: &Item) -> Value {
    let annotation = &item.annotation;
    let (width, height) = item.size();
    let version = annotation.model.as_ref().map_or_else(String::new, |model| {
        format!("{}@{}", model.name, model.digest.get(..12).unwrap_or(&model.digest))
    });
    let predictions = annotation.results.iter().map(|result| {
        let boxes: Vec<_> = item.boxes().filter(|found| std::ptr::eq(found.result, result)).collect();
        let scores: Vec<f64> = boxes.iter().filter_map(|found| found.score).map(f64::from).collect();
        let name = |index: usize| format!("{}-{}-{index}", item.key(), result.task_id);
        let mut regions: Vec<_> =
            boxes.iter().enumerate().map(|(index, found)| region(&name(index), found, width, height)).collect();
        regions.push(json!({
            "id": name(boxes.len()), "from_name": "text", "to_name": "image", "type": "textarea",
            "value": { "text": [result.text] },
        }));
        let mut prediction = json!({ "model_version": version, "result": regions, "task": result.task_id });
        // The mean of the boxes, by which Label Studio can order tasks.
        if let (false, Some(prediction)) = (scores.is_empty(), prediction.as_object_mut()) {
            let mean = scores.iter().sum::<f64>() / scores.len() as f64;
            prediction.insert("score".to_owned(), mean.into());
        }
        prediction
    });
    let predictions: Vec<_> = predictions.collect();
    json!({
        "data": { "image": item.url(), "annotation_id": annotation.annotation_id, "job_id": annotation.job_id },
        "predictions": predictions,
    })
}

fn region(id: &str, found: &CategorizedBox<'_>, width: u32, height: u32) -> Value {
    let [x, y, w, h] = found.fractions.scaled(100.0, 100.0).xywh();
    let mut region = json!({
        "id": id, "from_name": "label", "to_name": "image", "type": "rectanglelabels", "original_width": width,
        "original_height": height, "image_rotation": 0,
        "value": {
            "x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [&*found.category.name],
        },
        "meta": { "text": [found.entity.phrase] },
    });
    if let (Some(score), Some(region)) = (found.score, region.as_object_mut()) {
        region.insert("score".to_owned(), score.into());
    }
    region
}

/// The labeling configuration with these labels.
pub(super) fn config(categories: &[String]) -> String {
    let labels: String = categories.iter().map(|name| format!("    <Label value=\"{}\"/>\n", escaped(name))).collect();
    format!(
        "<View>\n  <Image name=\"image\" value=\"$image\"/>\n  <RectangleLabels name=\"label\" toName=\"image\">\n{labels}  </RectangleLabels>\n  <TextArea name=\"text\" toName=\"image\"/>\n</View>\n"
    )
}
