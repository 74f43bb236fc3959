//! Reads pictures of limited size from their sources.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use bytes::Bytes;
use tokio::sync::OnceCell;
use wire::v1::{ObjectIdentity, S3Object};
use worker::fetch::http::WebReader;
use worker::fetch::s3::{CaFileError, ObjectStore};
use worker::fetch::{FetchError, FetchErrorKind};
use worker::settings::S3Settings;

use super::input::Source;
use super::objects::has_below;
use crate::errors::plain;

/// Why a picture was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    // Not a source: the sentence has it already.
    #[error("{}", sentence(.0))]
    File(io::Error),
    #[error("the directory cannot be searched: {}", plain(.0))]
    Directory(io::Error),
    #[error("is not a file but a {0}: only files are read; use - for standard input")]
    NotAFile(&'static str),
    #[error("has more than {limit} bytes; raise --max-bytes to allow it")]
    TooLarge { limit: u64 },
    #[error(transparent)]
    Store(#[from] CaFileError),
    #[error("the reader panicked")]
    Panicked,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

/// The error of a file for users.
fn sentence(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => format!("cannot be read: {}", plain(error)),
    }
}

/// The bytes of a picture, and the object that they were read from, if they were.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) bytes: Bytes,
    pub(crate) object: Option<ObjectIdentity>,
}

impl From<Bytes> for Encoded {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, object: None }
    }
}

/// Reads pictures of limited size from their sources.
pub(crate) struct Reader {
    s3: S3Settings,
    /// Both are created when first needed: they read certificates and look for credentials.
    store: OnceCell<ObjectStore>,
    web: OnceCell<WebReader>,
    max_bytes: u64,
}

impl Reader {
    pub(crate) fn new(s3: &S3Settings, max_bytes: Option<u64>) -> Self {
        let max_bytes = max_bytes.unwrap_or(s3.max_object_bytes);
        // The allow list restricts other people's jobs; here the owner of the credentials names the objects.
        let s3 = S3Settings { allow: vec!["*".into()], max_object_bytes: max_bytes, ..s3.clone() };
        Self { s3, store: OnceCell::new(), web: OnceCell::new(), max_bytes }
    }

    /// The S3 store.
    pub(crate) async fn store(&self) -> Result<&ObjectStore, CaFileError> {
        self.store.get_or_try_init(|| ObjectStore::open(&self.s3)).await
    }

    /// Whether requests to the store accept its charges.
    pub(super) fn requester_pays(&self) -> bool {
        self.s3.requester_pays
    }

    /// Whether an object was not found, and there are others below its key.
    pub(crate) async fn is_prefix(&self, source: &Source, error: &ReadError) -> bool {
        match (source, error) {
            (Source::Object { bucket, key }, ReadError::Fetch(error)) if error.kind() == FetchErrorKind::NotFound => {
                match self.store().await {
                    Ok(store) => has_below(store, bucket, key, self.requester_pays()).await,
                    Err(_) => false,
                }
            }
            _ => false,
        }
    }

    /// Reads one picture.
    pub(crate) async fn read(&self, source: &Source) -> Result<Encoded, ReadError> {
        let limit = self.max_bytes;
        match source {
            Source::Object { bucket, key } => {
                let object = S3Object { bucket: bucket.clone(), key: key.clone(), ..S3Object::default() };
                let fetched = self.store().await?.read(&object).await?;
                Ok(Encoded { bytes: fetched.bytes, object: Some(fetched.identity) })
            }
            Source::Web(address) => {
                let create = || async { WebReader::new(limit, self.s3.operation_timeout) };
                Ok(self.web.get_or_try_init(create).await?.read(address).await?.into())
            }
            Source::StandardInput => {
                let read = move || read_bounded(&mut io::stdin().lock(), limit);
                Ok(tokio::task::spawn_blocking(read).await.map_err(|_| ReadError::Panicked)??.into())
            }
            Source::File(path) => {
                let path = path.clone();
                let read = move || read_bounded(&mut open_file(&path)?, limit);
                Ok(tokio::task::spawn_blocking(read).await.map_err(|_| ReadError::Panicked)??.into())
            }
        }
    }
}

/// Opens a file. Opening a named pipe would wait for its writer, for ever if there is none.
fn open_file(path: &Path) -> Result<fs::File, ReadError> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_fifo() {
        return Err(ReadError::NotAFile("named pipe"));
    }
    if kind.is_char_device() || kind.is_block_device() {
        return Err(ReadError::NotAFile("device"));
    }
    if kind.is_socket() {
        return Err(ReadError::NotAFile("socket"));
    }
    Ok(fs::File::open(path)?)
}

fn read_bounded(from: &mut dyn Read, limit: u64) -> Result<Bytes, ReadError> {
    let mut bytes = Vec::new();
    from.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(ReadError::TooLarge { limit });
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_file_is_named_and_not_waited_for() {
        let socket = tempfile::tempdir().unwrap();
        let path = socket.path().join("picture.jpg");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        for (path, kind) in [(path.as_path(), "socket"), (Path::new("/dev/zero"), "device")] {
            let error = open_file(path).unwrap_err().to_string();
            assert!(error.starts_with(&format!("is not a file but a {kind}")), "{error}");
        }
    }

    #[test]
    fn reading_stops_at_the_limit() {
        assert_eq!(read_bounded(&mut &[1u8, 2, 3][..], 3).unwrap().len(), 3);
        assert!(read_bounded(&mut std::io::repeat(0), 3).unwrap_err().to_string().contains("more than 3 bytes"));
    }
}
