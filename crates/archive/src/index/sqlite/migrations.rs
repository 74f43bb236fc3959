//! The tables, and their versions.

use rusqlite::{Connection, TransactionBehavior};

use super::failure;
use crate::index::database::DatabaseError;

/// The statements of each version after the one before it. A version that was released never changes.
const MIGRATIONS: [(i32, &str); 1] = [(1, include_str!("tables-1.sql"))];

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
