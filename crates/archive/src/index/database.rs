//! What both databases have in common.

use super::batch::Batch;
use super::postgres::PostgresDatabase;
use super::rows::Counts;
use super::sqlite::SqliteDatabase;
use super::target::Target;

/// A database could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The server does not answer, closed the connection, is full or busy: another attempt may succeed.
    #[error("the database {place} is not available: {cause}")]
    Unavailable {
        /// The database.
        place: String,
        /// What the server or the operating system said.
        cause: String,
    },
    /// The connection is refused for good: credentials, TLS, a name that does not exist.
    #[error("the database {place} cannot be opened: {cause}")]
    Open {
        /// The database.
        place: String,
        /// What the server or the operating system said.
        cause: String,
    },
    /// A statement failed.
    #[error("{what} failed in the database {place}: {cause}")]
    Statement {
        /// What was done.
        what: &'static str,
        /// The database.
        place: String,
        /// What the database said.
        cause: String,
    },
    /// The tables were made by a later version.
    #[error("the tables in {place} have version {found}, this program knows up to {known}: use a newer groundling")]
    NewerTables {
        /// The database.
        place: String,
        /// The version of the tables.
        found: i32,
        /// The newest known one.
        known: i32,
    },
    /// A server's database that cannot hold all characters.
    #[error("the database {place} has the encoding {found}, and annotations need UTF8: create it with encoding 'UTF8'")]
    Encoding {
        /// The database.
        place: String,
        /// Its encoding.
        found: String,
    },
    /// A file with tables of something else.
    #[error("{place} is the database of another program: choose another file")]
    Foreign {
        /// The file.
        place: String,
    },
    /// A schema of a server with tables of something else.
    #[error("the schema groundling of the database {place} has tables of another program: choose another database")]
    ForeignSchema {
        /// The database.
        place: String,
    },
}

impl DatabaseError {
    /// Whether another attempt may succeed.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// A state of the stream that is known to the database. A stream that was deleted and created again is another one,
/// because its sequences have another meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownStream {
    /// The key of the row.
    pub(crate) stream: i32,
    /// When the stream was created whose annotations are in the database, if that is another one and this one is new.
    pub(crate) replaces: Option<String>,
}

/// A connection to a database whose tables are there.
#[derive(Debug)]
pub(crate) enum Database {
    Postgres(Box<PostgresDatabase>),
    Sqlite(SqliteDatabase),
}

impl Database {
    /// Connects, and creates tables that are missing.
    pub(crate) async fn open(target: &Target) -> Result<Self, DatabaseError> {
        Ok(match target {
            Target::Postgres(address) => Self::Postgres(Box::new(PostgresDatabase::open(address).await?)),
            Target::Sqlite(file) => Self::Sqlite(SqliteDatabase::open(file.clone()).await?),
        })
    }

    /// Looks up a stream, and adds it if it is new.
    pub(crate) async fn stream(&mut self, name: &str, created: &str) -> Result<KnownStream, DatabaseError> {
        match self {
            Self::Postgres(database) => database.stream(name, created).await,
            Self::Sqlite(database) => database.stream(name.to_owned(), created.to_owned()).await,
        }
    }

    /// The sequence up to which a stream was read for `datasets`: the name of a dataset, or `*` for all.
    pub(crate) async fn cursor(&mut self, stream: i32, datasets: &str) -> Result<u64, DatabaseError> {
        let sequence = match self {
            Self::Postgres(database) => database.cursor(stream, datasets).await?,
            Self::Sqlite(database) => database.cursor(stream, datasets.to_owned()).await?,
        };
        Ok(u64::try_from(sequence).unwrap_or(0))
    }

    /// Writes a batch, and moves the cursor from where it is expected to be to the end of the batch, all in one
    /// transaction. `None` if the cursor is elsewhere: nothing was written then.
    pub(crate) async fn write(&mut self, step: Step, batch: Batch) -> Result<Option<Counts>, DatabaseError> {
        match self {
            Self::Postgres(database) => database.write(&step, &batch).await,
            Self::Sqlite(database) => database.write(step, batch).await,
        }
    }
}

/// The movement of a cursor.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) stream: i32,
    pub(crate) datasets: String,
    pub(crate) from: i64,
    pub(crate) to: i64,
}
