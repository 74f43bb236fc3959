//! SQLite.

mod migrations;
mod write;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

use super::batch::Batch;
use super::database::{DatabaseError, KnownStream, Step};
use super::rows::Counts;

/// How long to wait for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// An open file whose tables are there.
#[derive(Debug)]
pub(crate) struct SqliteDatabase {
    /// `None` while a thread has it, and after that thread panicked.
    connection: Option<Connection>,
    place: String,
}

/// What was done, for errors.
type Doing = (&'static str, rusqlite::Error);

impl SqliteDatabase {
    /// Opens or creates the file, and creates tables that are missing.
    pub(crate) async fn open(file: PathBuf) -> Result<Self, DatabaseError> {
        let place = format!("sqlite:{}", file.display());
        let opening = {
            let place = place.clone();
            move || {
                let mut connection = connect(&file).map_err(|error| open_error(&place, &error))?;
                migrations::migrate(&mut connection, &place)?;
                Ok(connection)
            }
        };
        let opened = tokio::task::spawn_blocking(opening).await;
        let connection = opened.map_err(|error| unavailable(&place, &error))??;
        Ok(Self { connection: Some(connection), place })
    }

    pub(crate) async fn stream(&mut self, name: String, created: String) -> Result<KnownStream, DatabaseError> {
        self.with(move |connection| {
            find_stream(connection, &name, &created).map_err(|error| ("looking up the stream", error))
        })
        .await
    }

    /// The cursor. Adds it at 0 if it is new.
    pub(crate) async fn cursor(&mut self, stream: i32, datasets: String) -> Result<i64, DatabaseError> {
        self.with(move |connection| {
            find_cursor(connection, stream, &datasets).map_err(|error| ("reading the cursor", error))
        })
        .await
    }

    pub(crate) async fn write(&mut self, step: Step, batch: Batch) -> Result<Option<Counts>, DatabaseError> {
        self.with(move |connection| write::write(connection, &step, &batch)).await
    }

    /// Does work on a thread that may block.
    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T, Doing> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let Some(mut connection) = self.connection.take() else {
            return Err(unavailable(&self.place, &"an earlier statement did not end"));
        };
        let working = tokio::task::spawn_blocking(move || {
            let done = work(&mut connection);
            (connection, done)
        });
        let (connection, done) = working.await.map_err(|error| unavailable(&self.place, &error))?;
        self.connection = Some(connection);
        done.map_err(|doing| failure(&self.place, doing))
    }
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    // Names are not addresses: a file may be called `file:x`.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // A crash of the machine may undo the last transactions, together with their cursor.
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(16);
    Ok(connection)
}

fn find_stream(connection: &mut Connection, name: &str, created: &str) -> rusqlite::Result<KnownStream> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let sql = "select id from streams where name = ?1 and created = ?2";
    let found = transaction.query_row(sql, [name, created], |row| row.get(0)).optional()?;
    if let Some(stream) = found {
        return Ok(KnownStream { stream, replaces: None });
    }
    let sql = "select created from streams where name = ?1 order by id desc limit 1";
    let replaces = transaction.query_row(sql, [name], |row| row.get(0)).optional()?;
    let sql = "insert into streams (name, created) values (?1, ?2) returning id";
    let stream = transaction.query_row(sql, [name, created], |row| row.get(0))?;
    transaction.commit()?;
    Ok(KnownStream { stream, replaces })
}

fn find_cursor(connection: &Connection, stream: i32, datasets: &str) -> rusqlite::Result<i64> {
    let sql = "insert into cursors (stream, datasets, sequence) values (?1, ?2, 0) on conflict do nothing";
    connection.execute(sql, (stream, datasets))?;
    let sql = "select sequence from cursors where stream = ?1 and datasets = ?2";
    connection.query_row(sql, (stream, datasets), |row| row.get(0))
}

fn open_error(place: &str, error: &rusqlite::Error) -> DatabaseError {
    let (place, cause) = (place.to_owned(), error.to_string());
    if is_temporary(error) { DatabaseError::Unavailable { place, cause } } else { DatabaseError::Open { place, cause } }
}

fn failure(place: &str, (what, error): Doing) -> DatabaseError {
    let (place, cause) = (place.to_owned(), error.to_string());
    match is_temporary(&error) {
        true => DatabaseError::Unavailable { place, cause },
        false => DatabaseError::Statement { what, place, cause },
    }
}

fn unavailable(place: &str, cause: &dyn std::fmt::Display) -> DatabaseError {
    DatabaseError::Unavailable { place: place.to_owned(), cause: cause.to_string() }
}

/// Whether another attempt may succeed: another process writes, or the disk is full or fails.
fn is_temporary(error: &rusqlite::Error) -> bool {
    let temporary = [
        ErrorCode::DatabaseBusy,
        ErrorCode::DatabaseLocked,
        ErrorCode::DiskFull,
        ErrorCode::SystemIoFailure,
        ErrorCode::FileLockingProtocolFailed,
    ];
    error.sqlite_error_code().is_some_and(|code| temporary.contains(&code))
}
