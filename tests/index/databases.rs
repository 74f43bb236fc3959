//! PostgreSQL and SQLite, as the tests fill and read them.

use std::process::{Output, Stdio};

use sandbox::{PostgresOptions, PostgresServer};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::tls::NoTls;

use crate::filled_stream::TestEnv;
use crate::support::{send_signal, stderr_of};

/// A database of either kind. SQLite has its file in the directory of the environment.
pub(crate) enum Database {
    Postgres(Box<PostgresServer>),
    Sqlite(String),
}

impl Database {
    pub(crate) async fn postgres() -> Self {
        Self::Postgres(Box::new(PostgresServer::start(&PostgresOptions::default()).await.unwrap()))
    }

    pub(crate) fn sqlite(env: &TestEnv, name: &str) -> Self {
        Self::Sqlite(env.path(name))
    }

    pub(crate) async fn both(env: &TestEnv) -> [Self; 2] {
        [Self::postgres().await, Self::sqlite(env, "annotations.db")]
    }

    pub(crate) fn address(&self) -> String {
        match self {
            Self::Postgres(server) => server.url(),
            Self::Sqlite(file) => format!("sqlite:{file}"),
        }
    }

    /// `groundling index` into this database.
    pub(crate) fn command(&self, env: &TestEnv, arguments: &[&str]) -> Command {
        let into = self.address();
        let mut command = env.groundling(&[&["index", "--into", &into, "--format", "json"], arguments].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) async fn index(&self, env: &TestEnv, arguments: &[&str]) -> Output {
        self.command(env, arguments).output().await.unwrap()
    }

    /// Indexes, and returns the summary.
    pub(crate) async fn indexed(&self, env: &TestEnv, arguments: &[&str]) -> Value {
        let output = self.index(env, arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", stderr_of(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Removes everything that was indexed.
    pub(crate) async fn clear(&self) {
        match self {
            Self::Postgres(_) => drop(self.rows("drop schema if exists groundling cascade").await),
            Self::Sqlite(file) => {
                for end in ["", "-wal", "-shm"] {
                    drop(std::fs::remove_file(format!("{file}{end}")));
                }
            }
        }
    }

    /// The rows of a query, each value as a text. `~` in front of the name of a table or view stands for the schema.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        self.try_rows(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub(crate) async fn try_rows(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        match self {
            Self::Postgres(server) => {
                let failed = |error: tokio_postgres::Error| format!("{error:?}");
                let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.map_err(failed)?;
                let running = tokio::spawn(connection);
                let messages = client.simple_query(&sql.replace('~', "groundling.")).await.map_err(failed)?;
                drop(client);
                running.await.unwrap().unwrap();
                let rows = messages.iter().filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                });
                Ok(rows
                    .map(|row| (0..row.len()).map(|column| row.get(column).unwrap_or("null").to_owned()).collect())
                    .collect())
            }
            Self::Sqlite(file) => sqlite_rows(file, &sql.replace('~', "")).map_err(|error| error.to_string()),
        }
    }

    /// One number.
    pub(crate) async fn number(&self, sql: &str) -> u64 {
        self.rows(sql).await[0][0].parse().unwrap()
    }

    /// One number, or 0 while the database or the table is not there.
    pub(crate) async fn number_or_zero(&self, sql: &str) -> u64 {
        let rows = self.try_rows(sql).await.unwrap_or_default();
        rows.first().map_or(0, |row| row[0].parse().unwrap())
    }

    /// Everything that was indexed, in an order that does not depend on the keys of rows. Numbers with fractions are
    /// multiplied by 1000 and rounded.
    pub(crate) async fn contents(&self) -> Vec<Vec<String>> {
        let boxes = match self {
            Self::Postgres(_) => ["(box[1])[0]", "(box[1])[1]", "(box[0])[0]", "(box[0])[1]"],
            Self::Sqlite(_) => ["x0", "y0", "x1", "y1"],
        };
        let thousandths = |column: &str| format!("cast(round(cast({column} as numeric) * 1000) as bigint)");
        let corners: Vec<_> = boxes.iter().map(|corner| thousandths(corner)).collect();
        let finished = match self {
            Self::Postgres(_) => "to_char(finished_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
            Self::Sqlite(_) => "finished_at",
        };
        let (score, loss) = (thousandths("score"), thousandths("loss"));
        let statements = [
            format!(
                "select annotation_id, sequence, dataset, job_id, bucket, key, version, etag, sha256, format, width, height,
                 size_bytes, model, model_revision, model_digest, {finished} from ~annotations order by annotation_id"
            ),
            format!(
                "select annotation_id, result, task, prompt, text, answer, finish_reason, prompt_tokens, generated_tokens,
                 {loss} from ~results join ~annotations using (annotation) order by annotation_id, result"
            ),
            format!(
                "select annotation_id, result, entity, phrase, span_start, span_end, {score} from ~entities
                 join ~annotations using (annotation) order by annotation_id, result, entity"
            ),
            format!(
                "select annotation_id, result, entity, number, {}, {score} from ~boxes join ~annotations using (annotation)
                 order by annotation_id, result, entity, number",
                corners.join(", ")
            ),
        ];
        let mut contents = Vec::new();
        for statement in statements {
            contents.append(&mut self.rows(&statement).await);
        }
        contents
    }
}

fn sqlite_rows(file: &str, sql: &str) -> rusqlite::Result<Vec<Vec<String>>> {
    use rusqlite::types::ValueRef;
    let connection = rusqlite::Connection::open(file)?;
    connection.busy_timeout(std::time::Duration::from_secs(30))?;
    connection.pragma_update(None, "foreign_keys", true)?;
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let text = |column| {
            Ok(match row.get_ref(column)? {
                ValueRef::Null => "null".to_owned(),
                ValueRef::Integer(number) => number.to_string(),
                ValueRef::Real(number) => number.to_string(),
                ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
            })
        };
        found.push((0..columns).map(text).collect::<rusqlite::Result<_>>()?);
    }
    Ok(found)
}

/// Sends SIGTERM, and waits for the end of the process.
pub(crate) async fn terminate(child: Child) -> Output {
    send_signal(child.id().unwrap(), "TERM");
    child.wait_with_output().await.unwrap()
}
