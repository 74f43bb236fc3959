//! YOLO: tar files to unpack into one directory, beside `data.yaml`.
//!
//! `labels/KEY.txt` has a line `class cx cy w h` for each box, as training reads it; `predictions/KEY.txt` has
//! `class cx cy w h confidence`, as predictions with `save_conf` are written. Boxes from a prompt have no confidence and
//! are in `labels` only. `images/KEY.jpg` is the picture, if pictures are exported.

use std::fmt::Write as _;

use super::tar_members::TarFile;
use crate::export::error::ExportError;
use crate::export::item::Item;
use crate::export::shard_writer::{ShardContext, ShardWriter};
use crate::export::staged_file::Finished;

pub(super) struct Shard {
    file: TarFile,
}

impl Shard {
    pub(super) fn create(context: ShardContext) -> Result<Self, ExportError> {
        Ok(Self { file: TarFile::new(context.create("shard", ".tar")?) })
    }
}

impl ShardWriter for Shard {
    fn add(&mut self, item: &Item) -> Result<(), ExportError> {
        let key = item.key();
        if let Some(picture) = &item.picture {
            self.file.add(&format!("images/{}", item.file_name()), picture)?;
        }
        let (mut labels, mut predictions) = (String::new(), String::new());
        for found in item.boxes() {
            let place = found.fractions;
            let line = format!(
                "{} {} {} {} {}",
                found.category.index,
                f64::midpoint(place.x0, place.x1),
                f64::midpoint(place.y0, place.y1),
                place.width(),
                place.height()
            );
            let _ = writeln!(labels, "{line}");
            if let Some(score) = found.score {
                let _ = writeln!(predictions, "{line} {score}");
            }
        }
        self.file.add(&format!("labels/{key}.txt"), labels.as_bytes())?;
        self.file.add(&format!("predictions/{key}.txt"), predictions.as_bytes())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Finished>, ExportError> {
        Ok(vec![self.file.finish()?])
    }
}

/// The description of the dataset.
pub(super) fn data_yaml(categories: &[String]) -> String {
    let mut yaml = "path: .\ntrain: images\nval: images\nnames:\n".to_owned();
    for (index, name) in categories.iter().enumerate() {
        // A JSON string is a YAML string.
        let _ = writeln!(yaml, "  {index}: {}", serde_json::Value::from(name.as_str()));
    }
    yaml
}
