//! A file of a shard while it is written.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::ExportError;

/// A file that is written in the directory for unfinished files and hashed on the way.
pub(crate) struct StagedFile {
    /// Its name at the destination.
    name: String,
    path: PathBuf,
    file: BufWriter<Hashed>,
}

struct Hashed {
    file: File,
    hash: Sha256,
    bytes: u64,
}

/// A file that is complete and not yet at its place.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) path: PathBuf,
    pub(crate) record: FileRecord,
}

/// A file of an export, in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    /// Its name at the destination.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256, in lower-case hexadecimal.
    pub sha256: String,
}

impl StagedFile {
    pub(crate) fn create(staging: &Path, name: String) -> Result<Self, ExportError> {
        let path = staging.join(name.replace('/', "_"));
        let file = File::create(&path).map_err(|error| ExportError::file(path.display(), error))?;
        let hashed = Hashed { file, hash: Sha256::new(), bytes: 0 };
        Ok(Self { name, path, file: BufWriter::with_capacity(1 << 16, hashed) })
    }

    /// Where it is written.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// An error of this file, for what writes into it.
    pub(crate) fn failed(&self, error: impl std::fmt::Display) -> ExportError {
        ExportError::file(self.path.display(), error)
    }

    pub(crate) fn finish(mut self) -> Result<Finished, ExportError> {
        let done = self.file.flush().and_then(|()| self.file.get_ref().file.sync_all());
        done.map_err(|error| self.failed(error))?;
        let Hashed { hash, bytes, .. } = self.file.get_mut();
        let sha256 = hex::encode(std::mem::take(hash).finalize());
        let record = FileRecord { name: self.name, bytes: *bytes, sha256 };
        Ok(Finished { path: self.path, record })
    }
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
