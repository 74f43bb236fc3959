//! OpenSearch: bodies for its bulk API, and a mapping in which phrases and boxes are nested documents.

use std::io::Write;

use serde_json::{Value, json};
use wire::v1::Entity;

use crate::export::error::ExportError;
use crate::export::head_noun::head_noun;
use crate::export::item::{Item, Rectangle};
use crate::export::shard_writer::{ShardContext, ShardWriter};
use crate::export::staged_file::{Finished, StagedFile};

pub(super) struct Shard {
    file: StagedFile,
}

impl Shard {
    pub(super) fn create(context: &ShardContext) -> Result<Self, ExportError> {
        Ok(Self { file: context.create("bulk", ".ndjson")? })
    }
}

impl ShardWriter for Shard {
    fn add(&mut self, item: &Item) -> Result<(), ExportError> {
        // The same annotation is the same document, however often it is loaded.
        let action = json!({ "index": { "_id": item.annotation.annotation_id } });
        writeln!(self.file, "{action}\n{}", document(item)).map_err(|error| self.file.failed(error))
    }

    fn finish(self: Box<Self>) -> Result<Vec<Finished>, ExportError> {
        Ok(vec![self.file.finish()?])
    }
}

fn document(item: &Item) -> Value {
    let annotation = &item.annotation;
    let (width, height) = item.size();
    let results = annotation.results.iter().map(|result| {
        let entities: Vec<_> = result.entities.iter().map(entity).collect();
        json!({ "task_id": result.task_id, "text": result.text, "entities": entities })
    });
    json!({
        "dataset": annotation.dataset, "job_id": annotation.job_id, "url": item.url(), "width_px": width,
        "height_px": height, "results": results.collect::<Vec<_>>(),
    })
}

fn entity(entity: &Entity) -> Value {
    let boxes = entity.boxes.iter().map(|found| {
        let Rectangle { x0, y0, x1, y1 } = Rectangle::of(found);
        json!({ "x0": x0, "y0": y0, "x1": x1, "y1": y1, "score": found.score })
    });
    json!({
        "phrase": entity.phrase, "noun": head_noun(&entity.phrase), "score": entity.score,
        "boxes": boxes.collect::<Vec<_>>(),
    })
}

/// The body for creating the index.
pub(super) fn mapping() -> String {
    let float = json!({ "type": "float" });
    let keyword = json!({ "type": "keyword" });
    let boxes = json!({
        "type": "nested", "properties": { "x0": float, "y0": float, "x1": float, "y1": float, "score": float },
    });
    let entities = json!({
        "type": "nested",
        "properties": { "phrase": { "type": "text" }, "noun": keyword, "score": float, "boxes": boxes },
    });
    let results = json!({
        "type": "nested",
        "properties": { "task_id": keyword, "text": { "type": "text" }, "entities": entities },
    });
    let properties = json!({
        "dataset": keyword, "job_id": keyword, "url": keyword, "width_px": { "type": "integer" },
        "height_px": { "type": "integer" }, "results": results,
    });
    format!("{}\n", json!({ "mappings": { "properties": properties } }))
}
