//! The files of a model at its source.

use bytes::Bytes;
use futures::stream::BoxStream;

use crate::digest::Digest;
use crate::error::ModelError;
use crate::hub::Hub;
use crate::s3::Store;

/// A file at its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    /// Its name in the model's directory.
    pub(crate) name: String,
    /// Its path in the repository, or its key.
    pub(crate) path: String,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) digest: Option<Digest>,
    /// What the source must still have when the file is read, of S3 stores.
    pub(crate) etag: Option<String>,
    /// Its name among the contents in the cache.
    pub(crate) blob: String,
}

/// The state of a model at its source.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    /// The commit, or what stands for one: it changes with any of the files.
    pub(crate) commit: String,
    /// All files in the model's folder.
    pub(crate) files: Vec<RemoteFile>,
}

/// The bytes of a file.
pub(crate) struct Opened {
    /// Where the bytes begin: the offset that was asked for, or 0 from a server that does not resume.
    pub(crate) offset: u64,
    pub(crate) bytes: BoxStream<'static, Result<Bytes, ModelError>>,
}

/// A source of files.
#[derive(Debug)]
pub(crate) enum Remote {
    Hub(Box<Hub>),
    S3(Store),
}

impl Remote {
    pub(crate) async fn list(&self) -> Result<Listing, ModelError> {
        match self {
            Self::Hub(hub) => hub.list().await,
            Self::S3(store) => store.list().await,
        }
    }

    /// A file of the listing with all that its source states about it.
    pub(crate) async fn file_metadata(&self, commit: &str, file: RemoteFile) -> Result<RemoteFile, ModelError> {
        match self {
            Self::Hub(hub) => hub.file_metadata(commit, file).await,
            Self::S3(store) => store.file_metadata(file).await,
        }
    }

    pub(crate) async fn open(&self, commit: &str, file: &RemoteFile, offset: u64) -> Result<Opened, ModelError> {
        match self {
            Self::Hub(hub) => hub.open(commit, file, offset).await,
            Self::S3(store) => store.open(file, offset).await,
        }
    }
}
