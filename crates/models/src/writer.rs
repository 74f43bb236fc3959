//! Writes a file on a thread for blocking work, and hashes it on the way.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::digest::{Digest, Found, Hashes};
use crate::error::ModelError;

/// Chunks between the network and the disk. A chunk has some 10 to 100 KB.
const QUEUED_CHUNKS: usize = 64;
const BUFFER: usize = 1 << 20;

/// A file after the end of its queue, and the error at which writing stopped.
pub(crate) type Appended = (Partial, Result<(), ModelError>);

/// A partly written file, with the hashes of what is in it.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    hashes: Hashes,
    /// Bytes in it.
    pub(crate) length: u64,
}

impl Partial {
    /// Opens a file and hashes what an earlier download left in it. More than `size` bytes are not of this file.
    pub(crate) fn open(path: &Path, size: u64, stated: Option<&Digest>) -> Result<Self, ModelError> {
        let opened =
            File::options().read(true).write(true).create(true).truncate(false).open(path).and_then(|mut file| {
                let mut hashes = Hashes::new(size, stated);
                if file.metadata()?.len() > size {
                    file.set_len(0)?;
                }
                let length = hash(&mut file, &mut hashes)?;
                Ok(Self { path: path.to_owned(), file, hashes, length })
            });
        opened.map_err(|error| ModelError::io("write", path, error))
    }

    /// Empties the file.
    pub(crate) fn restart(&mut self, size: u64, stated: Option<&Digest>) -> Result<(), ModelError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|error| ModelError::io("write", &self.path, error))?;
        (self.hashes, self.length) = (Hashes::new(size, stated), 0);
        Ok(())
    }

    /// The digests of a file that is complete.
    pub(crate) fn digests(&self, stated: Option<&Digest>) -> Found {
        self.hashes.clone().finish(stated)
    }

    /// A queue to a thread that appends to this file. The thread ends with the queue and returns the file, with the error
    /// at which it stopped writing.
    pub(crate) fn append(mut self) -> (mpsc::Sender<Bytes>, JoinHandle<Appended>) {
        let (sender, mut chunks) = mpsc::channel::<Bytes>(QUEUED_CHUNKS);
        let thread = tokio::task::spawn_blocking(move || {
            while let Some(chunk) = chunks.blocking_recv() {
                if let Err(error) = self.write(&chunk) {
                    let error = ModelError::io("write", &self.path, error);
                    return (self, Err(error));
                }
            }
            (self, Ok(()))
        });
        (sender, thread)
    }

    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write_all(chunk)?;
        self.hashes.update(chunk);
        self.length += chunk.len() as u64;
        Ok(())
    }
}

/// The digests of a file's contents, if it has this size.
pub(crate) fn digests_of(path: &Path, size: u64, stated: Option<&Digest>) -> io::Result<Option<Found>> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() != size {
        return Ok(None);
    }
    let mut hashes = Hashes::new(size, stated);
    hash(&mut file, &mut hashes)?;
    Ok(Some(hashes.finish(stated)))
}

/// Hashes a file from its start to its end, and returns its length.
fn hash(file: &mut File, hashes: &mut Hashes) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let (mut buffer, mut length) = (vec![0; BUFFER], 0);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(count) => {
                hashes.update(&buffer[..count]);
                length += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
