//! COCO: in each shard a file of annotations, one of detection results and one of captions.
//!
//! `pycocotools` reads a file as a whole, so shards are files of their own with ids from 1. `loadRes` does not take an empty
//! list, so a file without rows is not written.

use std::io::Write;

use serde_json::{Value, json};

use crate::export::error::ExportError;
use crate::export::item::{CategorizedBox, Item};
use crate::export::shard_writer::{ShardContext, ShardWriter};
use crate::export::staged_file::Finished;

pub(super) struct Shard {
    context: ShardContext,
    images: Rows,
    annotations: Rows,
    results: Rows,
    captions: Rows,
}

/// Rows of a JSON list.
#[derive(Default)]
struct Rows {
    count: u64,
    json: Vec<u8>,
}

impl Rows {
    fn push(&mut self, row: &Value) {
        if self.count > 0 {
            self.json.extend_from_slice(b",\n");
        }
        self.count += 1;
        self.json.extend_from_slice(row.to_string().as_bytes());
    }
}

impl Shard {
    pub(super) fn create(context: &ShardContext) -> Result<Self, ExportError> {
        let rows = Rows::default;
        Ok(Self { context: context.clone(), images: rows(), annotations: rows(), results: rows(), captions: rows() })
    }

    fn push_box(&mut self, image_id: u64, found: CategorizedBox<'_>, (width, height): (u32, u32)) {
        let place = found.fractions.scaled(width.into(), height.into());
        let category_id = found.category.index + 1;
        let mut annotation = json!({
            "id": self.annotations.count + 1, "image_id": image_id, "category_id": category_id, "bbox": place.xywh(),
            "area": place.width() * place.height(), "iscrowd": 0, "phrase": found.entity.phrase,
            "task_id": found.result.task_id,
        });
        if let (Some(score), Some(annotation)) = (found.score, annotation.as_object_mut()) {
            annotation.insert("score".to_owned(), score.into());
            self.results.push(&json!({
                "image_id": image_id, "category_id": category_id, "bbox": place.xywh(), "score": score,
            }));
        }
        self.annotations.push(&annotation);
    }

    fn write_list(&self, stem: &str, rows: &Rows, files: &mut Vec<Finished>) -> Result<(), ExportError> {
        if rows.count > 0 {
            let mut file = self.context.create(stem, ".json")?;
            let parts: [&[u8]; 3] = [b"[", &rows.json, b"]\n"];
            parts.iter().try_for_each(|part| file.write_all(part)).map_err(|error| file.failed(error))?;
            files.push(file.finish()?);
        }
        Ok(())
    }
}

impl ShardWriter for Shard {
    fn add(&mut self, item: &Item) -> Result<(), ExportError> {
        let (width, height) = item.size();
        let image_id = self.images.count + 1;
        let object = item.annotation.picture.as_ref().and_then(|picture| picture.object.as_ref());
        let name = object.map_or_else(|| item.file_name(), |object| object.key.clone());
        self.images.push(&json!({
            "id": image_id, "file_name": name, "width": width, "height": height, "coco_url": item.url(),
            "annotation_id": item.annotation.annotation_id,
        }));
        for result in &item.annotation.results {
            self.captions.push(&json!({ "image_id": image_id, "caption": result.text, "task_id": result.task_id }));
        }
        for found in item.boxes() {
            self.push_box(image_id, found, (width, height));
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Finished>, ExportError> {
        let categories = self.context.categories.iter().enumerate();
        let categories: Vec<_> =
            categories.map(|(index, name)| json!({ "id": index + 1, "name": name, "supercategory": "" })).collect();
        let mut file = self.context.create("annotations", ".json")?;
        let start = format!("{{\"info\":{},\n\"images\":[", json!({ "description": self.context.dataset }));
        let end = format!("],\n\"categories\":{}}}\n", Value::Array(categories));
        let parts: [&[u8]; 5] =
            [start.as_bytes(), &self.images.json, b"],\n\"annotations\":[", &self.annotations.json, end.as_bytes()];
        parts.iter().try_for_each(|part| file.write_all(part)).map_err(|error| file.failed(error))?;
        let mut files = vec![file.finish()?];
        self.write_list("results", &self.results, &mut files)?;
        self.write_list("captions", &self.captions, &mut files)?;
        Ok(files)
    }
}
