//! The tables, and their versions.

use tokio_postgres::Client;

use super::failure;
use crate::index::database::DatabaseError;

/// The statements of each version after the one before it. A version that was released never changes.
const MIGRATIONS: [(i32, &str); 2] = [(1, include_str!("tables-1.sql")), (2, include_str!("tables-2.sql"))];
/// The key of the lock that is held while tables are created: any number that nobody else uses.
const LOCK: i64 = 0x6772_6f75_6e64_6c67;

/// Brings the tables to the newest version. Once they are there, this needs no permission to create any.
pub(crate) async fn migrate(client: &mut Client, place: &str) -> Result<(), DatabaseError> {
    let failed = |error| failure(place, ("creating the tables", error));
    let encoding = client.query_one("select getdatabaseencoding()::text", &[]).await;
    let found: String = encoding.and_then(|row| row.try_get(0)).map_err(failed)?;
    if found != "UTF8" {
        return Err(DatabaseError::Encoding { place: place.to_owned(), found });
    }
    let newest = MIGRATIONS.iter().map(|(version, _)| *version).max().unwrap_or(0);
    let found = version(client).await.map_err(failed)?;
    if found > newest {
        return Err(DatabaseError::NewerTables { place: place.to_owned(), found, known: newest });
    }
    if found < newest && !upgrade(client).await.map_err(failed)? {
        return Err(DatabaseError::ForeignSchema { place: place.to_owned() });
    }
    Ok(())
}

/// Whether the tables are there now; `false` if the schema has those of another program.
async fn upgrade(client: &mut Client) -> Result<bool, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    // Another process may do the same.
    transaction.execute("select pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let schema = transaction.query_one("select to_regnamespace('groundling') is not null", &[]).await?;
    if !schema.try_get::<_, bool>(0)? {
        transaction.batch_execute("create schema groundling").await?;
    }
    let foreign = "select to_regclass('groundling.migrations') is null and exists \
                   (select from pg_catalog.pg_class where relnamespace = to_regnamespace('groundling') and relkind in \
                   ('r', 'p', 'v', 'm', 'f'))";
    if transaction.query_one(foreign, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(false);
    }
    let table = "create table if not exists groundling.migrations \
                 (version integer primary key, applied timestamptz not null default now())";
    transaction.batch_execute(table).await?;
    let row = transaction.query_one("select coalesce(max(version), 0) from groundling.migrations", &[]).await?;
    let found: i32 = row.try_get(0)?;
    for (version, statements) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
        transaction.batch_execute(statements).await?;
        transaction.execute("insert into groundling.migrations (version) values ($1)", &[version]).await?;
    }
    transaction.commit().await?;
    Ok(true)
}

/// The version of the tables; 0 if there are none.
async fn version(client: &Client) -> Result<i32, tokio_postgres::Error> {
    let row = client.query_one("select to_regclass('groundling.migrations') is not null", &[]).await?;
    if !row.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    client.query_one("select coalesce(max(version), 0) from groundling.migrations", &[]).await?.try_get(0)
}
