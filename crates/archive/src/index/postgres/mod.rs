//! PostgreSQL.

pub(crate) mod address;
mod migrations;
pub(crate) mod parameters;
mod passwords;
mod tls;
mod write;

use broker::causes::causes;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::batch::Batch;
use super::database::{DatabaseError, KnownStream, Step};
use super::rows::Counts;
use address::Address;

/// A connection to a server whose tables are there.
pub(crate) struct PostgresDatabase {
    client: Client,
    statements: write::Statements,
    place: String,
}

impl std::fmt::Debug for PostgresDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresDatabase").field("place", &self.place).finish_non_exhaustive()
    }
}

/// What was done, for errors.
type Doing = (&'static str, tokio_postgres::Error);

impl PostgresDatabase {
    /// Connects, and creates tables that are missing.
    pub(crate) async fn open(address: &Address) -> Result<Self, DatabaseError> {
        let place = address.to_string();
        let (mut client, connection) =
            address.connect().await.map_err(|error| open_error(&place, &error, address.asks_for_tls()))?;
        // Ends when the client is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = causes(&error), "the connection to PostgreSQL was lost");
            }
        });
        migrations::migrate(&mut client, &place).await?;
        let statements = write::Statements::prepare(&client).await;
        let statements = statements.map_err(|error| failure(&place, ("preparing statements", error)))?;
        Ok(Self { client, statements, place })
    }

    pub(crate) async fn stream(&mut self, name: &str, created: &str) -> Result<KnownStream, DatabaseError> {
        let found = find_stream(&self.client, name, created).await;
        found.map_err(|error| failure(&self.place, ("looking up the stream", error)))
    }

    /// The cursor. Adds it at 0 if it is new.
    pub(crate) async fn cursor(&mut self, stream: i32, datasets: &str) -> Result<i64, DatabaseError> {
        let found = find_cursor(&self.client, stream, datasets).await;
        found.map_err(|error| failure(&self.place, ("reading the cursor", error)))
    }

    pub(crate) async fn write(&mut self, step: &Step, batch: &Batch) -> Result<Option<Counts>, DatabaseError> {
        let written = write::write(&mut self.client, &self.statements, step, batch).await;
        written.map_err(|doing| failure(&self.place, doing))
    }
}

async fn find_stream(client: &Client, name: &str, created: &str) -> Result<KnownStream, tokio_postgres::Error> {
    let sql = "select id from groundling.streams where name = $1 and created = $2";
    if let Some(row) = client.query_opt(sql, &[&name, &created]).await? {
        return Ok(KnownStream { stream: row.try_get(0)?, replaces: None });
    }
    let sql = "select created from groundling.streams where name = $1 order by id desc limit 1";
    let earlier = client.query_opt(sql, &[&name]).await?;
    let replaces = earlier.map(|row| row.try_get(0)).transpose()?;
    // Another process may have added it meanwhile.
    let sql = "insert into groundling.streams (name, created) values ($1, $2) \
               on conflict (name, created) do update set name = excluded.name returning id";
    let row = client.query_one(sql, &[&name, &created]).await?;
    Ok(KnownStream { stream: row.try_get(0)?, replaces })
}

async fn find_cursor(client: &Client, stream: i32, datasets: &str) -> Result<i64, tokio_postgres::Error> {
    let sql = "insert into groundling.cursors (stream, datasets, sequence) values ($1, $2, 0) \
               on conflict (stream, datasets) do nothing";
    client.execute(sql, &[&stream, &datasets]).await?;
    let sql = "select sequence from groundling.cursors where stream = $1 and datasets = $2";
    client.query_one(sql, &[&stream, &datasets]).await?.try_get(0)
}

/// An error while connecting.
fn open_error(place: &str, error: &tokio_postgres::Error, asks_for_tls: bool) -> DatabaseError {
    let (place, mut cause) = (place.to_owned(), text(error));
    if is_temporary(error) {
        return DatabaseError::Unavailable { place, cause };
    }
    if asks_for_tls && error.code().is_none() {
        cause +=
            " (sslrootcert=FILE names the certificate authority of the server, sslmode=disable connects without TLS)";
    }
    DatabaseError::Open { place, cause }
}

/// An error of a statement.
fn failure(place: &str, (what, error): Doing) -> DatabaseError {
    let (place, cause) = (place.to_owned(), text(&error));
    match is_temporary(&error) {
        true => DatabaseError::Unavailable { place, cause },
        false => DatabaseError::Statement { what, place, cause },
    }
}

fn text(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        // Without the words "db error" around it.
        Some(said) => match said.detail() {
            Some(detail) => format!("{} ({detail})", said.message()),
            None => said.message().to_owned(),
        },
        None => causes(error),
    }
}

/// Whether another attempt may succeed.
fn is_temporary(error: &tokio_postgres::Error) -> bool {
    if let Some(code) = error.code() {
        // Connection exceptions, lost conflicts, insufficient resources, interventions of an operator, errors of the
        // operating system. Source: the appendix "PostgreSQL Error Codes" of its manual.
        let class = ["08", "40", "53", "57", "58"].iter().any(|class| code.code().starts_with(class));
        return class || [SqlState::LOCK_NOT_AVAILABLE, SqlState::READ_ONLY_SQL_TRANSACTION].contains(code);
    }
    error.is_closed() || is_io(error)
}

/// Whether the network failed, and not TLS.
fn is_io(error: &(dyn std::error::Error + 'static)) -> bool {
    let (mut next, mut is_io) = (Some(error), false);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            // The error inside an I/O error is not one of its sources.
            is_io = !io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        }
        next = error.source();
    }
    is_io
}
