//! Writes batches.

use rusqlite::types::Null;
use rusqlite::{CachedStatement, Connection, OptionalExtension, ToSql, Transaction, TransactionBehavior, params};
use time::OffsetDateTime;

use super::Doing;
use crate::index::batch::Batch;
use crate::index::database::Step;
use crate::index::rows::{AnnotationRow, Counts};

const MOVE_CURSOR: &str = "update cursors set sequence = ?4, moved = strftime('%Y-%m-%dT%H:%M:%fZ') \
    where stream = ?1 and datasets = ?2 and sequence = ?3";
const INSERT_ANNOTATION: &str = "insert into annotations (stream, sequence, annotation_id, dataset, job_id, labels, bucket, \
    key, version, etag, sha256, format, width, height, size_bytes, model, model_revision, model_digest, finished_at) \
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19) \
    on conflict (annotation_id) do nothing returning annotation";
const INSERT_RESULT: &str = "insert into results (annotation, result, task, prompt, text, answer, finish_reason, \
    prompt_tokens, generated_tokens, loss) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
const INSERT_ENTITY: &str = "insert into entities (annotation, result, entity, phrase, span_start, span_end, score) \
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const INSERT_BOX: &str = "insert into boxes (annotation, result, entity, number, x0, y0, x1, y1, score) \
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

/// Writes a batch and moves the cursor. `None` if the cursor is not where it was expected: nothing was written.
pub(super) fn write(connection: &mut Connection, step: &Step, batch: &Batch) -> Result<Option<Counts>, Doing> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    let transaction = transaction.map_err(|error| ("beginning a transaction", error))?;
    let moved = move_cursor(&transaction, step).map_err(|error| ("moving the cursor", error))?;
    if moved == 0 {
        return Ok(None);
    }
    let counts =
        insert(&transaction, step.stream, &batch.annotations).map_err(|error| ("inserting annotations", error))?;
    transaction.commit().map_err(|error| ("committing", error))?;
    Ok(Some(counts))
}

fn move_cursor(transaction: &Transaction<'_>, step: &Step) -> rusqlite::Result<usize> {
    transaction.prepare_cached(MOVE_CURSOR)?.execute(params![step.stream, step.datasets, step.from, step.to])
}

fn insert(transaction: &Transaction<'_>, stream: i32, rows: &[AnnotationRow]) -> rusqlite::Result<Counts> {
    let mut annotations = transaction.prepare_cached(INSERT_ANNOTATION)?;
    let mut results = transaction.prepare_cached(INSERT_RESULT)?;
    let mut entities = transaction.prepare_cached(INSERT_ENTITY)?;
    let mut boxes = transaction.prepare_cached(INSERT_BOX)?;
    let mut counts = Counts::default();
    for row in rows {
        let Some(annotation) = insert_annotation(&mut annotations, stream, row)? else { continue };
        counts.add(row);
        for (result_number, result) in (0i64..).zip(&row.results) {
            results.execute(params![
                annotation,
                result_number,
                result.task,
                result.prompt,
                result.text,
                result.answer,
                result.finish_reason,
                result.prompt_tokens,
                result.generated_tokens,
                result.loss,
            ])?;
            for (entity_number, entity) in (0i64..).zip(&result.entities) {
                entities.execute(params![
                    annotation,
                    result_number,
                    entity_number,
                    entity.phrase,
                    entity.span_start,
                    entity.span_end,
                    entity.score,
                ])?;
                for (number, found) in (0i64..).zip(&entity.boxes) {
                    let corners = found.pixels.as_ref();
                    let [x0, y0, x1, y1]: [&dyn ToSql; 4] = match corners {
                        Some(pixels) => [&pixels.x0, &pixels.y0, &pixels.x1, &pixels.y1],
                        None => [&Null, &Null, &Null, &Null],
                    };
                    boxes.execute(params![
                        annotation,
                        result_number,
                        entity_number,
                        number,
                        x0,
                        y0,
                        x1,
                        y1,
                        found.score
                    ])?;
                }
            }
        }
    }
    Ok(counts)
}

/// The key of an annotation that was not there.
fn insert_annotation(
    statement: &mut CachedStatement<'_>,
    stream: i32,
    row: &AnnotationRow,
) -> rusqlite::Result<Option<i64>> {
    let finished_at = row.finished_at.map(text);
    let values = params![
        stream,
        row.sequence,
        row.annotation_id,
        row.dataset,
        row.job_id,
        row.labels,
        row.bucket,
        row.key,
        row.version,
        row.etag,
        row.sha256,
        row.format,
        row.width,
        row.height,
        row.size_bytes,
        row.model,
        row.model_revision,
        row.model_digest,
        finished_at,
    ];
    statement.query_row(values, |row| row.get(0)).optional()
}

/// In UTC, with the precision of PostgreSQL. Texts have the order of the times.
fn text(time: OffsetDateTime) -> String {
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second, microsecond) = (time.hour(), time.minute(), time.second(), time.microsecond());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{microsecond:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_microseconds() {
        let time = OffsetDateTime::from_unix_timestamp_nanos(1_796_027_696_000_001_999).unwrap();
        assert_eq!(text(time), "2026-11-30T08:34:56.000001Z");
    }
}
