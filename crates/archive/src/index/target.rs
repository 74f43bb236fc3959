//! The database that is named by `--into`.

use std::fmt;
use std::path::PathBuf;

use super::postgres::address::Address;
use super::postgres::parameters;

/// A database.
#[derive(Debug, Clone)]
pub enum Target {
    /// A PostgreSQL server.
    Postgres(Box<Address>),
    /// A file of SQLite.
    Sqlite(PathBuf),
}

/// A text that names no database. It does not contain the text, which may have a password.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Another kind of text.
    #[error(
        "a database is postgres://user@host:port/database, the parameters of psql (host=… dbname=…) or sqlite:FILE"
    )]
    Unknown,
    /// No file.
    #[error("sqlite: is followed by the name of a file, such as sqlite:annotations.db")]
    NoFile,
    /// An address of PostgreSQL that is not valid.
    #[error("the address of PostgreSQL is not valid: {0}")]
    Address(String),
    /// A mode of TLS that would not keep its promise.
    #[error(
        "sslmode={0} would connect without TLS, or without checking the server, when that fails: use sslmode=verify-full, or sslmode=disable for a connection without TLS"
    )]
    SslMode(String),
    /// A file of certificates cannot be used.
    #[error("the file {path} of sslrootcert cannot be used: {cause}")]
    RootCertificates {
        /// The file.
        path: String,
        /// What is wrong with it.
        cause: String,
    },
}

impl Target {
    /// Reads `postgres://…`, `postgresql://…`, `host=… dbname=…` or `sqlite:FILE`.
    ///
    /// # Errors
    /// [`TargetError`]. It never contains a password.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if let Some(file) = text.strip_prefix("sqlite:") {
            let file = file.strip_prefix("//").unwrap_or(file);
            let is_file = !file.is_empty() && !file.starts_with(':');
            return is_file.then(|| Self::Sqlite(file.into())).ok_or(TargetError::NoFile);
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") || parameters::pairs(text).is_some() {
            return Ok(Self::Postgres(Box::new(Address::parse(text)?)));
        }
        Err(TargetError::Unknown)
    }
}

/// The database without its password.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(address) => address.fmt(f),
            Self::Sqlite(file) => write!(f, "sqlite:{}", file.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_a_file_or_a_server() {
        let shown =
            |text: &str| Target::parse(text).map(|target| target.to_string()).map_err(|error| error.to_string());
        assert_eq!(shown("sqlite:a/b.db").unwrap(), "sqlite:a/b.db");
        assert_eq!(shown("sqlite:///a.db").unwrap(), "sqlite:/a.db");
        assert_eq!(
            shown("postgresql://u:secret@db.example/pictures").unwrap(),
            "postgres://u@db.example:5432/pictures"
        );
        assert_eq!(
            shown("host=db.example dbname=pictures user=u password='se cret'").unwrap(),
            "postgres://u@db.example:5432/pictures"
        );
        for bad in [
            "host=h password=secret colour=red",
            "host=h password='secret",
            "sqlite:",
            "sqlite::memory:",
            "mysql://u:secret@h/d",
            "annotations.db",
            "",
        ] {
            let error = shown(bad).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
