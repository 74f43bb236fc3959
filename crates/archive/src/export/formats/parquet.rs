//! Apache Parquet: a row for each picture and task, with phrases and boxes as nested lists.
//!
//! Labels are a list of keys and values, because `datasets` does not read maps.

use parquet::data_type::ByteArray;
use wire::v1::{Entity, FractionBox, GroundedBox, ImageAnnotation, PictureFacts, TaskResult};

use crate::export::error::ExportError;
use crate::export::item::Item;
use crate::export::parquet_columns::{Blob, Bool, ColumnBuffer, Corners, Float, Int32, Int64, Text};
use crate::export::parquet_file::{ParquetFile, RowGroup};
use crate::export::shard_writer::{ShardContext, ShardWriter};
use crate::export::staged_file::Finished;

/// Rows of a row group, without and with pictures.
const GROUP_ROWS: usize = 5000;
const GROUP_ROWS_WITH_PICTURES: usize = 100;
/// Bytes of texts and pictures after which a row group ends early.
const GROUP_BYTES: usize = 64 << 20;

const SCHEMA: &str = "
message annotations {
  REQUIRED BYTE_ARRAY annotation_id (STRING);
  REQUIRED INT64 stream_sequence;
  REQUIRED BYTE_ARRAY job_id (STRING);
  REQUIRED BYTE_ARRAY dataset (STRING);
  REQUIRED GROUP labels (LIST) {
    REPEATED GROUP list {
      REQUIRED GROUP element {
        REQUIRED BYTE_ARRAY key (STRING);
        REQUIRED BYTE_ARRAY value (STRING);
      }
    }
  }
  OPTIONAL BYTE_ARRAY bucket (STRING);
  OPTIONAL BYTE_ARRAY key (STRING);
  OPTIONAL BYTE_ARRAY etag (STRING);
  OPTIONAL BYTE_ARRAY version_id (STRING);
  REQUIRED BYTE_ARRAY picture_format (STRING);
  REQUIRED BYTE_ARRAY picture_sha256 (STRING);
  REQUIRED INT32 width_px;
  REQUIRED INT32 height_px;
  REQUIRED INT64 size_bytes;
  REQUIRED INT32 orientation;
  REQUIRED BOOLEAN orientation_applied;
  REQUIRED BYTE_ARRAY model (STRING);
  OPTIONAL BYTE_ARRAY model_revision (STRING);
  REQUIRED BYTE_ARRAY model_digest (STRING);
  OPTIONAL INT64 finished_at (TIMESTAMP(MICROS,true));
  REQUIRED BYTE_ARRAY task_id (STRING);
  REQUIRED BYTE_ARRAY prompt (STRING);
  REQUIRED BYTE_ARRAY text (STRING);
  REQUIRED BYTE_ARRAY raw_text (STRING);
  REQUIRED BYTE_ARRAY finish_reason (STRING);
  REQUIRED INT32 prompt_tokens;
  REQUIRED INT32 generated_tokens;
  OPTIONAL FLOAT loss_nats_per_token;
  REQUIRED GROUP entities (LIST) {
    REPEATED GROUP list {
      REQUIRED GROUP element {
        REQUIRED BYTE_ARRAY phrase (STRING);
        OPTIONAL INT32 start;
        OPTIONAL INT32 end;
        OPTIONAL FLOAT score;
        REQUIRED GROUP boxes (LIST) {
          REPEATED GROUP list {
            REQUIRED GROUP element {
              REQUIRED DOUBLE x0;
              REQUIRED DOUBLE y0;
              REQUIRED DOUBLE x1;
              REQUIRED DOUBLE y1;
              OPTIONAL FLOAT score;
              OPTIONAL GROUP refined {
                REQUIRED DOUBLE x0;
                REQUIRED DOUBLE y0;
                REQUIRED DOUBLE x1;
                REQUIRED DOUBLE y1;
              }
            }
          }
        }
      }
    }
  }
";

const PICTURE: &str = "
  OPTIONAL GROUP image {
    OPTIONAL BYTE_ARRAY bytes;
    REQUIRED BYTE_ARRAY path (STRING);
  }
";

/// What the columns mean, in the metadata of each file.
const UNITS: &str = r#"{"width_px":"pixels, after the orientation if it was applied","height_px":"pixels, after the orientation if it was applied","size_bytes":"bytes of the encoded picture","finished_at":"microseconds since 1970, UTC","loss_nats_per_token":"mean negative log-probability, natural logarithm","entities.start":"Unicode code points of text","entities.end":"Unicode code points of text, exclusive","entities.score":"geometric mean of token probabilities, 0 to 1","entities.boxes.x0":"fraction of the width from the left, 0 to 1","entities.boxes.y0":"fraction of the height from the top, 0 to 1","entities.boxes.x1":"fraction of the width from the left, 0 to 1","entities.boxes.y1":"fraction of the height from the top, 0 to 1","entities.boxes.score":"geometric mean of token probabilities, 0 to 1","entities.boxes.refined":"the same box with sub-cell corners, same units"}"#;

/// Columns whose values are mostly different.
const UNIQUE: [&str; 12] = [
    "annotation_id",
    "stream_sequence",
    "job_id",
    "key",
    "etag",
    "picture_sha256",
    "size_bytes",
    "finished_at",
    "text",
    "raw_text",
    "loss_nats_per_token",
    "entities.list.element.score",
];

pub(super) struct Shard {
    file: ParquetFile<Rows>,
    rows: Rows,
    pictures: bool,
}

/// The columns of a row group, in the order of the schema.
#[derive(Default)]
struct Rows {
    count: usize,
    bytes: usize,
    annotation_id: Text,
    sequence: Int64,
    job_id: Text,
    dataset: Text,
    label_names: Text,
    label_values: Text,
    bucket: Text,
    key: Text,
    etag: Text,
    version_id: Text,
    format: Text,
    sha256: Text,
    width: Int32,
    height: Int32,
    size_bytes: Int64,
    orientation: Int32,
    orientation_applied: Bool,
    model: Text,
    model_revision: Text,
    model_digest: Text,
    finished_at: Int64,
    task_id: Text,
    prompt: Text,
    text: Text,
    raw_text: Text,
    finish_reason: Text,
    prompt_tokens: Int32,
    generated_tokens: Int32,
    loss: Float,
    entities: Entities,
    picture: Blob,
    path: Text,
}

#[derive(Default)]
struct Entities {
    phrase: Text,
    start: Int32,
    end: Int32,
    score: Float,
    corners: Corners,
    box_score: Float,
    refined: Corners,
}

impl Shard {
    pub(super) fn create(context: &ShardContext) -> Result<Self, ExportError> {
        let schema = format!("{SCHEMA}{}}}", if context.pictures { PICTURE } else { "" });
        let metadata = [("groundling.format", "1".to_owned()), ("groundling.units", UNITS.to_owned())];
        let file = ParquetFile::create(context.create("shard", ".parquet")?, &schema, &UNIQUE, metadata)?;
        Ok(Self { file, rows: Rows::default(), pictures: context.pictures })
    }

    fn write_group(&mut self) -> Result<(), ExportError> {
        self.file.write_row_group(&mut self.rows)?;
        (self.rows.count, self.rows.bytes) = (0, 0);
        Ok(())
    }
}

impl ShardWriter for Shard {
    fn add(&mut self, item: &Item) -> Result<(), ExportError> {
        let most = if self.pictures { GROUP_ROWS_WITH_PICTURES } else { GROUP_ROWS };
        let mut results = item.annotation.results.as_slice();
        while !results.is_empty() {
            // Each row has the picture, so a group can be full after any of them.
            let fit = if self.pictures { 1 } else { most - self.rows.count };
            let (next, later) = results.split_at(fit.min(results.len()));
            self.rows.push(item, next);
            if self.rows.count >= most || self.rows.bytes >= GROUP_BYTES {
                self.write_group()?;
            }
            results = later;
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
    /// Adds a row for each of these results of an annotation.
    fn push(&mut self, item: &Item, results: &[TaskResult]) {
        let rows = results.len();
        self.count += rows;
        self.bytes += results.iter().map(|result| result.text.len() + result.raw_text.len()).sum::<usize>();
        self.bytes += rows * item.picture.as_ref().map_or(0, bytes::Bytes::len);
        self.push_annotation(rows, &item.annotation);
        self.sequence.push_rows(rows, signed(item.sequence));
        self.push_facts(rows, item.annotation.picture.as_ref().unwrap_or(&PictureFacts::default()));
        for result in results {
            self.push_result(result);
            self.push_picture(item);
        }
    }

    fn push_picture(&mut self, item: &Item) {
        // Without a picture, all of `image` is null: readers would look for a path without bytes elsewhere.
        match &item.picture {
            Some(picture) => {
                self.picture.push_at(0, 1, Some(ByteArray::from(picture.clone())));
                self.path.push_optional(Some(&item.url()));
            }
            None => {
                self.picture.push_absent(0, 0);
                self.path.push_optional(None);
            }
        }
    }

    fn push_annotation(&mut self, rows: usize, annotation: &ImageAnnotation) {
        self.annotation_id.push_rows(rows, &annotation.annotation_id);
        self.job_id.push_rows(rows, &annotation.job_id);
        self.dataset.push_rows(rows, &annotation.dataset);
        // In the order of their names: a hash map has none.
        let mut labels: Vec<_> = annotation.labels.iter().collect();
        labels.sort_unstable();
        for _ in 0..rows {
            self.push_labels(&labels);
        }
        let model = annotation.model.as_ref();
        self.model.push_rows(rows, model.map_or("", |model| &model.name));
        self.model_revision.push_optional_rows(rows, model.and_then(|model| model.revision.as_deref()));
        self.model_digest.push_rows(rows, model.map_or("", |model| &model.digest));
        let finished = annotation.finished_at.as_ref();
        let micros = finished.map(|time| time.seconds * 1_000_000 + i64::from(time.nanos) / 1000);
        self.finished_at.push_optional_rows(rows, micros);
    }

    fn push_labels(&mut self, labels: &[(&String, &String)]) {
        if labels.is_empty() {
            self.label_names.push_absent(0, 0);
            self.label_values.push_absent(0, 0);
        }
        for (index, (name, value)) in labels.iter().enumerate() {
            let repetition = i16::from(index > 0);
            self.label_names.push_in_list(repetition, 1, name);
            self.label_values.push_in_list(repetition, 1, value);
        }
    }

    fn push_facts(&mut self, rows: usize, picture: &PictureFacts) {
        let object = picture.object.as_ref();
        self.bucket.push_optional_rows(rows, object.map(|object| object.bucket.as_str()));
        self.key.push_optional_rows(rows, object.map(|object| object.key.as_str()));
        self.etag.push_optional_rows(rows, object.and_then(|object| object.etag.as_deref()));
        self.version_id.push_optional_rows(rows, object.and_then(|object| object.version_id.as_deref()));
        self.format.push_rows(rows, &picture.format);
        self.sha256.push_rows(rows, &picture.sha256);
        self.width.push_rows(rows, signed_32(picture.width));
        self.height.push_rows(rows, signed_32(picture.height));
        self.size_bytes.push_rows(rows, signed(picture.size_bytes));
        self.orientation.push_rows(rows, signed_32(picture.orientation));
        self.orientation_applied.push_rows(rows, picture.orientation_applied);
    }

    fn push_result(&mut self, result: &TaskResult) {
        self.task_id.push(&result.task_id);
        self.prompt.push(&result.prompt);
        self.text.push(&result.text);
        self.raw_text.push(&result.raw_text);
        let reason = result.finish_reason().as_str_name();
        self.finish_reason.push(&reason.strip_prefix("FINISH_REASON_").unwrap_or(reason).to_ascii_lowercase());
        self.prompt_tokens.push(signed_32(result.prompt_tokens));
        self.generated_tokens.push(signed_32(result.generated_tokens));
        self.loss.push_optional(result.loss);
        if result.entities.is_empty() {
            self.entities.push_none();
        }
        for (index, entity) in result.entities.iter().enumerate() {
            self.entities.push(i16::from(index > 0), entity);
        }
    }
}

impl RowGroup for Rows {
    fn columns(&mut self) -> Vec<&mut dyn ColumnBuffer> {
        let Entities { phrase, start, end, score, corners, box_score, refined } = &mut self.entities;
        vec![
            &mut self.annotation_id,
            &mut self.sequence,
            &mut self.job_id,
            &mut self.dataset,
            &mut self.label_names,
            &mut self.label_values,
            &mut self.bucket,
            &mut self.key,
            &mut self.etag,
            &mut self.version_id,
            &mut self.format,
            &mut self.sha256,
            &mut self.width,
            &mut self.height,
            &mut self.size_bytes,
            &mut self.orientation,
            &mut self.orientation_applied,
            &mut self.model,
            &mut self.model_revision,
            &mut self.model_digest,
            &mut self.finished_at,
            &mut self.task_id,
            &mut self.prompt,
            &mut self.text,
            &mut self.raw_text,
            &mut self.finish_reason,
            &mut self.prompt_tokens,
            &mut self.generated_tokens,
            &mut self.loss,
            phrase,
            start,
            end,
            score,
            corners,
            box_score,
            refined,
            &mut self.picture,
            &mut self.path,
        ]
    }
}

impl Entities {
    /// A row without entities.
    fn push_none(&mut self) {
        self.phrase.push_absent(0, 0);
        self.start.push_absent(0, 0);
        self.end.push_absent(0, 0);
        self.score.push_absent(0, 0);
        self.push_no_box(0, 0);
    }

    /// `repetition` is 0 for the first entity of a row, then 1.
    fn push(&mut self, repetition: i16, entity: &Entity) {
        self.phrase.push_in_list(repetition, 1, &entity.phrase);
        self.start.push_at(repetition, 1, entity.span.as_ref().map(|span| span.start));
        self.end.push_at(repetition, 1, entity.span.as_ref().map(|span| span.end));
        self.score.push_at(repetition, 1, entity.score);
        if entity.boxes.is_empty() {
            self.push_no_box(repetition, 1);
        }
        for (index, found) in entity.boxes.iter().enumerate() {
            self.push_box(if index > 0 { 2 } else { repetition }, found);
        }
    }

    fn push_box(&mut self, repetition: i16, found: &GroundedBox) {
        self.corners.push_in_list(repetition, 2, found.fractions.as_ref().map_or([0.0; 4], corners));
        self.box_score.push_at(repetition, 2, found.score);
        self.refined.push_at(repetition, 2, found.refined.as_ref().map(corners));
    }

    fn push_no_box(&mut self, repetition: i16, parents: i16) {
        self.corners.push_absent(repetition, parents);
        self.box_score.push_absent(repetition, parents);
        self.refined.push_absent(repetition, parents);
    }
}

fn corners(corners: &FractionBox) -> [f64; 4] {
    [corners.x0, corners.y0, corners.x1, corners.y1]
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn signed_32(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
