//! FiftyOne: a folder for each shard in the layout of a `FiftyOneDataset`, with a field of detections for each task.

use std::io::Write;

use serde_json::{Map, Value, json};

use crate::export::error::ExportError;
use crate::export::item::Item;
use crate::export::shard_writer::{ShardContext, ShardWriter};
use crate::export::staged_file::{Finished, StagedFile};

pub(super) struct Shard {
    file: StagedFile,
    metadata: StagedFile,
    count: u64,
}

impl Shard {
    pub(super) fn create(context: &ShardContext) -> Result<Self, ExportError> {
        let mut metadata = context.create("shard", "/metadata.json")?;
        let text = json!({ "name": context.dataset, "media_type": "image" });
        writeln!(metadata, "{text}").map_err(|error| metadata.failed(error))?;
        Ok(Self { file: context.create("shard", "/samples.json")?, metadata, count: 0 })
    }

    fn write(&mut self, text: &str) -> Result<(), ExportError> {
        self.file.write_all(text.as_bytes()).map_err(|error| self.file.failed(error))
    }
}

impl ShardWriter for Shard {
    fn add(&mut self, item: &Item) -> Result<(), ExportError> {
        let start = if self.count == 0 { "{\"samples\":[" } else { ",\n" };
        self.count += 1;
        self.write(&format!("{start}{}", sample(item)))
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Finished>, ExportError> {
        self.write(if self.count == 0 { "{\"samples\":[]}\n" } else { "]}\n" })?;
        Ok(vec![self.metadata.finish()?, self.file.finish()?])
    }
}

fn sample(item: &Item) -> Value {
    let (width, height) = item.size();
    let mut sample = Map::new();
    let mut set = |name: String, value: Value| sample.insert(name, value);
    set("filepath".to_owned(), item.url().into());
    set("tags".to_owned(), json!([]));
    set("metadata".to_owned(), json!({ "_cls": "ImageMetadata", "width": width, "height": height }));
    set("annotation_id".to_owned(), item.annotation.annotation_id.clone().into());
    for result in &item.annotation.results {
        let detections: Vec<_> = item
            .boxes()
            .filter(|found| std::ptr::eq(found.result, result))
            .map(|found| {
                json!({
                    "_cls": "Detection", "label": &*found.category.name, "bounding_box": found.fractions.xywh(),
                    "confidence": found.score, "phrase": found.entity.phrase, "attributes": {}, "tags": [],
                })
            })
            .collect();
        let field = field_name(&result.task_id);
        set(format!("{field}_text"), result.text.clone().into());
        set(field, json!({ "_cls": "Detections", "detections": detections }));
    }
    Value::Object(sample)
}

/// The name of a task's field: letters, digits and `_`, beginning with a letter.
fn field_name(task_id: &str) -> String {
    let name: String = task_id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("task_{name}")
}
