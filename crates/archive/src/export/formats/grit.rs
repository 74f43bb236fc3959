//! The columns of GRIT, the dataset that the model was trained on, as Parquet: a row for each picture and task.
//!
//! `noun_chunks` and `ref_exps` are lists of `[start, end, x1, y1, x2, y2, score]` with spans in code points of the caption
//! and boxes in fractions. A noun chunk is a phrase up to its noun (`a man` of `a man in a red shirt`), a referring
//! expression is the whole phrase.

use wire::v1::Entity;

use crate::export::error::ExportError;
use crate::export::head_noun::noun_chunk;
use crate::export::item::{Item, Rectangle};
use crate::export::parquet_columns::{ColumnBuffer, Double, Int32, Text};
use crate::export::parquet_file::{ParquetFile, RowGroup};
use crate::export::shard_writer::{ShardContext, ShardWriter};
use crate::export::staged_file::Finished;

const GROUP_ROWS: usize = 5000;

const SCHEMA: &str = "
message grit {
  REQUIRED BYTE_ARRAY id (STRING);
  REQUIRED BYTE_ARRAY url (STRING);
  REQUIRED BYTE_ARRAY key (STRING);
  REQUIRED BYTE_ARRAY caption (STRING);
  REQUIRED INT32 width;
  REQUIRED INT32 height;
  REQUIRED GROUP noun_chunks (LIST) {
    REPEATED GROUP list {
      REQUIRED GROUP element (LIST) {
        REPEATED GROUP list {
          REQUIRED DOUBLE element;
        }
      }
    }
  }
  REQUIRED GROUP ref_exps (LIST) {
    REPEATED GROUP list {
      REQUIRED GROUP element (LIST) {
        REPEATED GROUP list {
          REQUIRED DOUBLE element;
        }
      }
    }
  }
}";

pub(super) struct Shard {
    file: ParquetFile<Rows>,
    rows: Rows,
}

#[derive(Default)]
struct Rows {
    count: usize,
    id: Text,
    url: Text,
    key: Text,
    caption: Text,
    width: Int32,
    height: Int32,
    noun_chunks: Double,
    ref_exps: Double,
}

impl Shard {
    pub(super) fn create(context: &ShardContext) -> Result<Self, ExportError> {
        let units = r#"{"noun_chunks":"start, end (Unicode code points of caption), x1, y1, x2, y2 (fractions of the picture), score (0 to 1; NaN if the box is part of the prompt)","ref_exps":"like noun_chunks","width":"pixels","height":"pixels"}"#;
        let metadata = [("groundling.units", units.to_owned())];
        let file = ParquetFile::create(
            context.create("shard", ".parquet")?,
            SCHEMA,
            &["id", "url", "key", "caption"],
            metadata,
        )?;
        Ok(Self { file, rows: Rows::default() })
    }

    fn write_group(&mut self) -> Result<(), ExportError> {
        self.file.write_row_group(&mut self.rows)?;
        self.rows.count = 0;
        Ok(())
    }
}

impl RowGroup for Rows {
    fn columns(&mut self) -> Vec<&mut dyn ColumnBuffer> {
        vec![
            &mut self.id,
            &mut self.url,
            &mut self.key,
            &mut self.caption,
            &mut self.width,
            &mut self.height,
            &mut self.noun_chunks,
            &mut self.ref_exps,
        ]
    }
}

impl ShardWriter for Shard {
    fn add(&mut self, item: &Item) -> Result<(), ExportError> {
        let (width, height) = item.size();
        for result in &item.annotation.results {
            let rows = &mut self.rows;
            rows.count += 1;
            rows.id.push(&format!("{}/{}", item.annotation.annotation_id, result.task_id));
            rows.url.push(&item.url());
            rows.key.push(&item.key());
            rows.caption.push(&result.text);
            rows.width.push(i32::try_from(width).unwrap_or(i32::MAX));
            rows.height.push(i32::try_from(height).unwrap_or(i32::MAX));
            push_lists(&mut rows.noun_chunks, &result.entities, noun_chunk);
            push_lists(&mut rows.ref_exps, &result.entities, |phrase| phrase);
            if rows.count >= GROUP_ROWS {
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

/// The list of a row: an entry for each box, with the span of a part of its phrase.
fn push_lists(column: &mut Double, entities: &[Entity], part: impl Fn(&str) -> &str) {
    let mut is_empty = true;
    for entity in entities {
        let Some(span) = &entity.span else { continue };
        let left_out = entity.phrase.chars().count().saturating_sub(part(&entity.phrase).chars().count());
        let end = f64::from(span.end) - left_out as f64;
        for found in &entity.boxes {
            let Rectangle { x0, y0, x1, y1 } = Rectangle::of(found);
            let score = found.score.map_or(f64::NAN, f64::from);
            for (index, number) in [f64::from(span.start), end, x0, y0, x1, y1, score].into_iter().enumerate() {
                let repetition = match (index, is_empty) {
                    (0, true) => 0,
                    (0, false) => 1,
                    _ => 2,
                };
                column.push_in_list(repetition, 2, number);
            }
            is_empty = false;
        }
    }
    if is_empty {
        column.push_absent(0, 0);
    }
}
