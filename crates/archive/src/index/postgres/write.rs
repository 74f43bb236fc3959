//! Writes batches: annotations by one insertion that leaves out those that are there, and their parts by COPY.

use std::collections::HashMap;
use std::error::Error;
use std::pin::pin;

use bytes::{BufMut, BytesMut};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Statement, Transaction};

use super::Doing;
use crate::export::item::Rectangle;
use crate::index::batch::Batch;
use crate::index::database::Step;
use crate::index::rows::{AnnotationRow, Counts};

const MOVE_CURSOR: &str = "update groundling.cursors set sequence = $4, moved = now() \
    where stream = $1 and datasets = $2 and sequence = $3";

/// The sequence tells which message of the batch was inserted: a batch can have an annotation twice.
const INSERT_ANNOTATIONS: &str = "insert into groundling.annotations (stream, sequence, annotation_id, dataset, job_id, \
    labels, bucket, key, version, etag, sha256, format, width, height, size_bytes, model, model_revision, model_digest, \
    finished_at) \
    select $1, sequence, annotation_id, dataset, job_id, labels::jsonb, bucket, key, version, etag, sha256, format, width, \
    height, size_bytes, model, model_revision, model_digest, finished_at \
    from unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], \
    $10::text[], $11::text[], $12::text[], $13::bigint[], $14::bigint[], $15::bigint[], $16::text[], $17::text[], \
    $18::text[], $19::timestamptz[]) as new (sequence, annotation_id, dataset, job_id, labels, bucket, key, version, etag, \
    sha256, format, width, height, size_bytes, model, model_revision, model_digest, finished_at) \
    on conflict (annotation_id) do nothing returning annotation, sequence";

const COPY_RESULTS: &str = "copy groundling.results (annotation, result, task, prompt, text, answer, finish_reason, \
    prompt_tokens, generated_tokens, loss) from stdin binary";
const RESULT: [Type; 10] = [
    Type::INT8,
    Type::INT4,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::INT8,
    Type::INT8,
    Type::FLOAT4,
];

const COPY_ENTITIES: &str = "copy groundling.entities (annotation, result, entity, phrase, span_start, span_end, score) \
    from stdin binary";
const ENTITY: [Type; 7] = [Type::INT8, Type::INT4, Type::INT4, Type::TEXT, Type::INT4, Type::INT4, Type::FLOAT4];

const COPY_BOXES: &str = "copy groundling.boxes (annotation, result, entity, number, box, score) from stdin binary";
const BOX: [Type; 6] = [Type::INT8, Type::INT4, Type::INT4, Type::INT4, Type::BOX, Type::FLOAT4];

/// The statements, parsed by the server once for each connection.
pub(super) struct Statements {
    move_cursor: Statement,
    insert_annotations: Statement,
    copy_results: Statement,
    copy_entities: Statement,
    copy_boxes: Statement,
}

impl Statements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            move_cursor: client.prepare(MOVE_CURSOR).await?,
            insert_annotations: client.prepare(INSERT_ANNOTATIONS).await?,
            copy_results: client.prepare(COPY_RESULTS).await?,
            copy_entities: client.prepare(COPY_ENTITIES).await?,
            copy_boxes: client.prepare(COPY_BOXES).await?,
        })
    }
}

/// Writes a batch and moves the cursor. `None` if the cursor is not where it was expected: nothing was written.
pub(super) async fn write(
    client: &mut Client,
    statements: &Statements,
    step: &Step,
    batch: &Batch,
) -> Result<Option<Counts>, Doing> {
    let transaction = client.transaction().await.map_err(|error| ("beginning a transaction", error))?;
    // First, so that another process waits here until this one is done.
    let moved = transaction
        .execute(&statements.move_cursor, &[&step.stream, &step.datasets, &step.from, &step.to])
        .await
        .map_err(|error| ("moving the cursor", error))?;
    if moved == 0 {
        return Ok(None);
    }
    let counts = if batch.annotations.is_empty() {
        Counts::default()
    } else {
        insert(&transaction, statements, step.stream, &batch.annotations).await?
    };
    transaction.commit().await.map_err(|error| ("committing", error))?;
    Ok(Some(counts))
}

async fn insert(
    transaction: &Transaction<'_>,
    statements: &Statements,
    stream: i32,
    rows: &[AnnotationRow],
) -> Result<Counts, Doing> {
    let inserted = insert_annotations(transaction, &statements.insert_annotations, stream, rows).await;
    let inserted = inserted.map_err(|error| ("inserting annotations", error))?;
    let new: Vec<(i64, &AnnotationRow)> =
        rows.iter().filter_map(|row| Some((*inserted.get(&row.sequence)?, row))).collect();
    let mut counts = Counts::default();
    new.iter().for_each(|(_, row)| counts.add(row));
    copy_results(transaction, &statements.copy_results, &new).await.map_err(|error| ("copying results", error))?;
    copy_entities(transaction, &statements.copy_entities, &new).await.map_err(|error| ("copying entities", error))?;
    copy_boxes(transaction, &statements.copy_boxes, &new).await.map_err(|error| ("copying boxes", error))?;
    Ok(counts)
}

/// The keys of the annotations that were not there, by their sequences.
async fn insert_annotations(
    transaction: &Transaction<'_>,
    statement: &Statement,
    stream: i32,
    rows: &[AnnotationRow],
) -> Result<HashMap<i64, i64>, tokio_postgres::Error> {
    fn column<'a, T>(rows: &'a [AnnotationRow], of: impl Fn(&'a AnnotationRow) -> T) -> Vec<T> {
        rows.iter().map(of).collect()
    }
    let inserted = transaction
        .query(
            statement,
            &[
                &stream,
                &column(rows, |row| row.sequence),
                &column(rows, |row| row.annotation_id.as_str()),
                &column(rows, |row| row.dataset.as_str()),
                &column(rows, |row| row.job_id.as_str()),
                &column(rows, |row| row.labels.as_str()),
                &column(rows, |row| row.bucket.as_deref()),
                &column(rows, |row| row.key.as_deref()),
                &column(rows, |row| row.version.as_deref()),
                &column(rows, |row| row.etag.as_deref()),
                &column(rows, |row| row.sha256.as_str()),
                &column(rows, |row| row.format.as_str()),
                &column(rows, |row| row.width),
                &column(rows, |row| row.height),
                &column(rows, |row| row.size_bytes),
                &column(rows, |row| row.model.as_str()),
                &column(rows, |row| row.model_revision.as_deref()),
                &column(rows, |row| row.model_digest.as_str()),
                &column(rows, |row| row.finished_at),
            ],
        )
        .await?;
    inserted.iter().map(|row| Ok((row.try_get(1)?, row.try_get(0)?))).collect()
}

async fn copy_results(
    transaction: &Transaction<'_>,
    statement: &Statement,
    new: &[(i64, &AnnotationRow)],
) -> Result<(), tokio_postgres::Error> {
    let mut writer = pin!(BinaryCopyInWriter::new(transaction.copy_in(statement).await?, &RESULT));
    for (annotation, row) in new {
        for (number, result) in (0i32..).zip(&row.results) {
            let columns: [&(dyn ToSql + Sync); 10] = [
                annotation,
                &number,
                &result.task,
                &result.prompt,
                &result.text,
                &result.answer,
                &result.finish_reason,
                &result.prompt_tokens,
                &result.generated_tokens,
                &result.loss,
            ];
            writer.as_mut().write(&columns).await?;
        }
    }
    writer.finish().await.map(drop)
}

async fn copy_entities(
    transaction: &Transaction<'_>,
    statement: &Statement,
    new: &[(i64, &AnnotationRow)],
) -> Result<(), tokio_postgres::Error> {
    let mut writer = pin!(BinaryCopyInWriter::new(transaction.copy_in(statement).await?, &ENTITY));
    for (annotation, row) in new {
        for (result_number, result) in (0i32..).zip(&row.results) {
            for (number, entity) in (0i32..).zip(&result.entities) {
                let (start, end) = (&entity.span_start, &entity.span_end);
                let columns: [&(dyn ToSql + Sync); 7] =
                    [annotation, &result_number, &number, &entity.phrase, start, end, &entity.score];
                writer.as_mut().write(&columns).await?;
            }
        }
    }
    writer.finish().await.map(drop)
}

async fn copy_boxes(
    transaction: &Transaction<'_>,
    statement: &Statement,
    new: &[(i64, &AnnotationRow)],
) -> Result<(), tokio_postgres::Error> {
    let mut writer = pin!(BinaryCopyInWriter::new(transaction.copy_in(statement).await?, &BOX));
    for (annotation, row) in new {
        for (result_number, result) in (0i32..).zip(&row.results) {
            for (entity_number, entity) in (0i32..).zip(&result.entities) {
                for (number, found) in (0i32..).zip(&entity.boxes) {
                    let pixels = found.pixels.map(Corners);
                    let columns: [&(dyn ToSql + Sync); 6] =
                        [annotation, &result_number, &entity_number, &number, &pixels, &found.score];
                    writer.as_mut().write(&columns).await?;
                }
            }
        }
    }
    writer.finish().await.map(drop)
}

/// A value of the type `box`.
#[derive(Debug)]
struct Corners(Rectangle);

impl ToSql for Corners {
    /// The upper right corner and then the lower left one, as `box_send` of the server writes them.
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Rectangle { x0, y0, x1, y1 } = self.0;
        [x1, y1, x0, y0].into_iter().for_each(|coordinate| out.put_f64(coordinate));
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::BOX
    }

    to_sql_checked!();
}
