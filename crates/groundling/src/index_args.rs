//! The arguments of `groundling index`. The comments are the program's own help.
#![allow(rustdoc::invalid_html_tags, reason = "the comments are shown as help")]

use clap::Args;

use crate::args::Format;

pub(crate) const INDEX_EXAMPLES: &str = "\
Examples:
  groundling index --into sqlite:holiday.db --dataset holiday
  groundling index --into postgres://annotations@db.example/pictures --follow
  groundling index --into 'postgres://annotations@db.example/pictures?sslrootcert=ca.pem' --dataset a --dataset b

The password of PostgreSQL is read from PGPASSWORD or ~/.pgpass (PGPASSFILE, or passfile=FILE in the address), as by psql.
In the address it would be visible to other users of this machine.

A run that was stopped, or killed, continues where it was: how far the stream was read is stored in the database together
with the rows. An annotation that is in the database already is left out. docs/results.md describes the tables and has
queries, such as for pictures with a snowman to the left of a fire.";

#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// Database: postgres://USER@HOST/NAME, or sqlite:FILE. Its tables are created if they are missing.
    ///
    /// PostgreSQL: connections to other machines use TLS and check the server's certificate, unless the address ends with
    /// ?sslmode=disable. Tables are in the schema "groundling".
    #[arg(long, value_name = "DATABASE")]
    pub(crate) into: String,
    /// Dataset. Can be repeated [default: all].
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: Vec<String>,
    /// Continue with annotations that arrive later, until SIGTERM or Ctrl-C. Waits for a database that is not available, and
    /// for a NATS server that becomes unavailable.
    #[arg(long)]
    pub(crate) follow: bool,
    /// NATS server [default: nats://127.0.0.1:4222].
    #[arg(long, value_name = "URL")]
    pub(crate) nats_url: Option<String>,
    /// Format of the summary on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}
