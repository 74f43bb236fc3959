//! Apache Parquet in the layout of the Hugging Face Hub for object detection: a row for each picture and task, with the
//! picture and its boxes.

use parquet::data_type::ByteArray;

use crate::export::error::ExportError;
use crate::export::item::{CategorizedBox, Item};
use crate::export::parquet_columns::{Blob, ColumnBuffer, Float, Int32, Int64, Text};
use crate::export::parquet_file::{ParquetFile, RowGroup};
use crate::export::shard_writer::{ShardContext, ShardWriter};
use crate::export::staged_file::Finished;

/// Rows of a row group: the Hub's viewer reads whole groups.
const GROUP_ROWS: usize = 100;
const GROUP_BYTES: usize = 64 << 20;

const SCHEMA: &str = "
message examples {
  OPTIONAL GROUP image {
    OPTIONAL BYTE_ARRAY bytes;
    OPTIONAL BYTE_ARRAY path (STRING);
  }
  REQUIRED INT64 image_id;
  REQUIRED INT32 width;
  REQUIRED INT32 height;
  REQUIRED BYTE_ARRAY task_id (STRING);
  REQUIRED BYTE_ARRAY text (STRING);
  REQUIRED GROUP objects {
    REQUIRED GROUP bbox (LIST) {
      REPEATED GROUP list {
        REQUIRED GROUP element (LIST) {
          REPEATED GROUP list {
            REQUIRED FLOAT element;
          }
        }
      }
    }
    REQUIRED GROUP categories (LIST) {
      REPEATED GROUP list {
        REQUIRED BYTE_ARRAY element (STRING);
      }
    }
    REQUIRED GROUP phrases (LIST) {
      REPEATED GROUP list {
        REQUIRED BYTE_ARRAY element (STRING);
      }
    }
    REQUIRED GROUP scores (LIST) {
      REPEATED GROUP list {
        OPTIONAL FLOAT element;
      }
    }
  }
}";

/// The features, by which `datasets` reads the columns. It takes that of `image` only if the column may be null.
const FEATURES: &str = r#"{"info":{"features":{"image":{"_type":"Image"},"image_id":{"dtype":"int64","_type":"Value"},"width":{"dtype":"int32","_type":"Value"},"height":{"dtype":"int32","_type":"Value"},"task_id":{"dtype":"string","_type":"Value"},"text":{"dtype":"string","_type":"Value"},"objects":{"bbox":{"feature":{"feature":{"dtype":"float32","_type":"Value"},"_type":"List"},"_type":"List"},"categories":{"feature":{"dtype":"string","_type":"Value"},"_type":"List"},"phrases":{"feature":{"dtype":"string","_type":"Value"},"_type":"List"},"scores":{"feature":{"dtype":"float32","_type":"Value"},"_type":"List"}}}}}"#;

pub(super) struct Shard {
    file: ParquetFile<Rows>,
    rows: Rows,
}

#[derive(Default)]
struct Rows {
    count: usize,
    bytes: usize,
    picture: Blob,
    path: Text,
    image_id: Int64,
    width: Int32,
    height: Int32,
    task_id: Text,
    text: Text,
    corners: Float,
    categories: Text,
    phrases: Text,
    scores: Float,
}

impl Shard {
    pub(super) fn create(context: &ShardContext) -> Result<Self, ExportError> {
        let units = r#"{"objects.bbox":"left, top, width, height in pixels"}"#;
        let metadata = [("huggingface", FEATURES.to_owned()), ("groundling.units", units.to_owned())];
        let file = ParquetFile::create(context.create("shard", ".parquet")?, SCHEMA, &["image_id", "text"], metadata)?;
        Ok(Self { file, rows: Rows::default() })
    }

    fn write_group(&mut self) -> Result<(), ExportError> {
        self.file.write_row_group(&mut self.rows)?;
        (self.rows.count, self.rows.bytes) = (0, 0);
        Ok(())
    }
}

impl ShardWriter for Shard {
    fn add(&mut self, item: &Item) -> Result<(), ExportError> {
        for index in 0..item.annotation.results.len() {
            self.rows.push(item, index);
            if self.rows.count >= GROUP_ROWS || self.rows.bytes >= GROUP_BYTES {
                self.write_group()?;
            }
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Finished>, ExportError> {
        if self.rows.count > 0 {
            self.write_group()?;
        }
        Ok(vec![self.file.finish()?])
    }
}

impl Rows {
    fn push(&mut self, item: &Item, index: usize) {
        let Some(result) = item.annotation.results.get(index) else { return };
        self.count += 1;
        self.bytes += item.picture.as_ref().map_or(0, bytes::Bytes::len);
        // Without a picture, all of `image` is null: readers would look for a path without bytes in the file system.
        match &item.picture {
            Some(picture) => {
                self.picture.push_at(0, 1, Some(ByteArray::from(picture.clone())));
                self.path.push_in_list(0, 2, &item.file_name());
            }
            None => {
                self.picture.push_absent(0, 0);
                self.path.push_absent(0, 0);
            }
        }
        self.image_id.push(i64::try_from(item.sequence).unwrap_or(i64::MAX));
        let (width, height) = item.size();
        self.width.push(i32::try_from(width).unwrap_or(i32::MAX));
        self.height.push(i32::try_from(height).unwrap_or(i32::MAX));
        self.task_id.push(&result.task_id);
        self.text.push(&result.text);
        let scale = (f64::from(width), f64::from(height));
        let mut is_empty = true;
        for found in item.boxes().filter(|found| std::ptr::eq(found.result, result)) {
            self.push_box(i16::from(!is_empty), found, scale);
            is_empty = false;
        }
        if is_empty {
            self.corners.push_absent(0, 0);
            self.categories.push_absent(0, 0);
            self.phrases.push_absent(0, 0);
            self.scores.push_absent(0, 0);
        }
    }

    fn push_box(&mut self, repetition: i16, found: CategorizedBox<'_>, (width, height): (f64, f64)) {
        for (index, number) in found.fractions.scaled(width, height).xywh().into_iter().enumerate() {
            self.corners.push_in_list(if index > 0 { 2 } else { repetition }, 2, number as f32);
        }
        self.categories.push_in_list(repetition, 1, &found.category.name);
        self.phrases.push_in_list(repetition, 1, &found.entity.phrase);
        self.scores.push_at(repetition, 1, found.score);
    }
}

impl RowGroup for Rows {
    fn columns(&mut self) -> Vec<&mut dyn ColumnBuffer> {
        vec![
            &mut self.picture,
            &mut self.path,
            &mut self.image_id,
            &mut self.width,
            &mut self.height,
            &mut self.task_id,
            &mut self.text,
            &mut self.corners,
            &mut self.categories,
            &mut self.phrases,
            &mut self.scores,
        ]
    }
}
