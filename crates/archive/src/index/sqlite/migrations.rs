//! The tables, and their versions.

use rusqlite::{Connection, TransactionBehavior};

use super::failure;
use crate::index::database::DatabaseError;

/// The statements of each version after the one before it. A version that was released never changes.
const MIGRATIONS: [(i32, &str); 2] = [(1, include_str!("tables-1.sql")), (2, include_str!("tables-2.sql"))];

/// What the file is.
enum Found {
    /// It has our tables, of a version.
    Version(i32),
    /// It has other tables only.
    Foreign,
}

/// Brings the tables to the newest version.
pub(crate) fn migrate(connection: &mut Connection, place: &str) -> Result<(), DatabaseError> {
    let failed = |error| failure(place, ("creating the tables", error));
    let newest = MIGRATIONS.iter().map(|(version, _)| *version).max().unwrap_or(0);
    match version(connection).map_err(failed)? {
        Found::Foreign => Err(DatabaseError::Foreign { place: place.to_owned() }),
        Found::Version(found) if found > newest => {
            Err(DatabaseError::NewerTables { place: place.to_owned(), found, known: newest })
        }
        Found::Version(found) if found < newest => upgrade(connection).map_err(failed),
        Found::Version(_) => Ok(()),
    }
}

fn upgrade(connection: &mut Connection) -> rusqlite::Result<()> {
    // A table that others refer to is made anew. Within a transaction, this has no effect.
    connection.pragma_update(None, "foreign_keys", false)?;
    let applied = apply(connection);
    connection.pragma_update(None, "foreign_keys", true)?;
    applied
}

fn apply(connection: &mut Connection) -> rusqlite::Result<()> {
    // Another process may do the same: only one at a time gets past this line.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let applied = "strftime('%Y-%m-%dT%H:%M:%fZ')";
    transaction.execute_batch(&format!(
        "create table if not exists migrations (version integer primary key, applied text not null default ({applied}))"
    ))?;
    let found: i32 = transaction.query_row("select coalesce(max(version), 0) from migrations", [], |row| row.get(0))?;
    for (version, statements) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
        transaction.execute_batch(statements)?;
        transaction.execute("insert into migrations (version) values (?1)", [version])?;
    }
    transaction.commit()
}

fn version(connection: &Connection) -> rusqlite::Result<Found> {
    // One statement, so that no other process creates tables in between.
    let sql = "select count(*), count(*) filter (where name in ('migrations', 'grounded_boxes')) from sqlite_schema";
    let (all, ours): (i64, i64) = connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    match (all, ours) {
        (0, _) => Ok(Found::Version(0)),
        (_, 2) => connection
            .query_row("select coalesce(max(version), 0) from migrations", [], |row| row.get(0))
            .map(Found::Version),
        _ => Ok(Found::Foreign),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(connection: &Connection, sql: &str) -> i64 {
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn insert(connection: &Connection, annotation_id: &str, answer: &str) {
        let sql = "insert into annotations (annotation_id, stream, sequence, dataset, job_id, labels, sha256, format, width, \
                   height, model, model_digest) values (?1, 1, 1, 'd', 'j', '{}', '', 'png', 1, 1, 'm', '')";
        connection.execute(sql, [annotation_id]).unwrap();
        let sql = "insert into results (annotation, result, task, prompt, text, answer, prompt_tokens, generated_tokens) \
                   select max(annotation), 0, 't', 'a snowman', 'a snowman' || ?1, ?1, 1, 1 from annotations";
        connection.execute(sql, [answer]).unwrap();
        for sql in [
            "insert into entities (annotation, result, entity, phrase) select max(annotation), 0, 0, 'a fox' from annotations",
            "insert into boxes (annotation, result, entity, number, x0, y0, x1, y1) \
             select max(annotation), 0, 0, 0, 1, 1, 2, 2 from annotations",
        ] {
            connection.execute(sql, []).unwrap();
        }
    }

    #[test]
    fn tables_of_the_first_version_are_upgraded_and_lose_what_was_left_of_deleted_annotations() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "foreign_keys", false).unwrap();
        connection
            .execute_batch("create table migrations (version integer primary key, applied text not null default '')")
            .unwrap();
        connection.execute_batch(MIGRATIONS[0].1).unwrap();
        connection
            .execute_batch("insert into migrations (version) values (1); insert into streams values (1, 's', 'c')")
            .unwrap();
        insert(&connection, "kept", " in the snow");
        insert(&connection, "deleted", "");
        // Without foreign keys, as in sqlite3 and Python.
        connection.execute("delete from annotations where annotation_id = 'deleted'", []).unwrap();
        migrate(&mut connection, "memory").unwrap();
        assert_eq!(number(&connection, "select max(version) from migrations"), 2);
        for table in ["annotations", "results", "entities", "boxes", "grounded_boxes", "box_search"] {
            assert_eq!(number(&connection, &format!("select count(*) from {table}")), 1, "{table}");
        }
        let found = |word: &str| number(&connection, &format!("select count(*) from text_search('{word}')"));
        assert_eq!((found("snow"), found("snowman")), (1, 0), "answers are searched, not prompts");
        assert_eq!(number(&connection, "select foreign_keys from pragma_foreign_keys"), 1);
        let references = "select count(*) from pragma_foreign_key_list('results') where \"table\" = 'annotations'";
        assert_eq!(number(&connection, references), 1);

        connection.pragma_update(None, "foreign_keys", false).unwrap();
        insert(&connection, "last", "");
        let key = number(&connection, "select max(annotation) from annotations");
        connection.execute("delete from annotations where annotation_id = 'last'", []).unwrap();
        for table in ["annotations", "results", "entities", "boxes", "box_search"] {
            assert_eq!(number(&connection, &format!("select count(*) from {table}")), 1, "{table}");
        }
        insert(&connection, "new", "");
        assert!(number(&connection, "select max(annotation) from annotations") > key, "keys are not given again");
    }
}
