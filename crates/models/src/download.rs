//! Downloads one file: resumes, repeats and checks.

use std::time::Duration;

use broker::backoff::{Backoff, Delays};
use futures::StreamExt;
use tokio::task::spawn_blocking;

use crate::cache::Cache;
use crate::digest::Found;
use crate::error::{ModelError, ModelErrorKind};
use crate::progress::DownloadProgress;
use crate::remote::{Remote, RemoteFile};
use crate::writer::{Partial, digests_of};

/// Delays between attempts.
pub(crate) const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
/// Attempts in a row that bring no byte.
pub(crate) const ATTEMPTS: usize = 5;
/// How long a server may send nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// A file that is to be downloaded.
pub(crate) struct Download<'a> {
    pub(crate) remote: &'a Remote,
    pub(crate) cache: &'a Cache,
    pub(crate) commit: &'a str,
    pub(crate) progress: &'a DownloadProgress,
    /// Bytes of the files before this one.
    pub(crate) before: u64,
}

impl Download<'_> {
    /// Gets a file into the cache, unless it is there, and returns its digests.
    pub(crate) async fn run(&self, file: &RemoteFile) -> Result<Found, ModelError> {
        if let Some(found) = self.stored(file).await? {
            self.progress.set_done(self.before + file.size);
            return Ok(found);
        }
        let mut partial = self.open_partial(file).await?;
        let (mut delays, mut failures, mut is_repeated) = (Delays::of(BACKOFF), 0, false);
        loop {
            let start = partial.length;
            self.progress.set_done(self.before + start);
            let (written, result) =
                if start == file.size { (partial, Ok(())) } else { self.attempt(file, partial).await? };
            partial = written;
            match result {
                Ok(()) => match self.check(file, &partial) {
                    Ok(found) => {
                        drop(partial);
                        let (cache, blob) = (self.cache.clone(), file.blob.clone());
                        blocking(move || cache.store_blob(&blob)).await?;
                        self.progress.set_done(self.before + file.size);
                        return Ok(found);
                    }
                    // What an earlier download left may be damaged.
                    Err(error) => {
                        partial.restart(file.size, file.digest.as_ref())?;
                        if is_repeated {
                            return Err(error);
                        }
                        tracing::warn!("{error}; downloading it once more");
                        is_repeated = true;
                    }
                },
                Err(error) if !error.kind().is_temporary() => return Err(error),
                Err(error) => {
                    if partial.length > start {
                        (failures, delays) = (0, Delays::of(BACKOFF));
                    }
                    failures += 1;
                    if failures >= ATTEMPTS {
                        return Err(error);
                    }
                    tracing::warn!(file = file.name, bytes = partial.length, "{error}; resuming");
                    tokio::time::sleep(delays.after_failure()).await;
                }
            }
        }
    }

    /// The digests of a file that is in the cache.
    async fn stored(&self, file: &RemoteFile) -> Result<Option<Found>, ModelError> {
        let (path, size, stated) = (self.cache.blob(&file.blob), file.size, file.digest.clone());
        let found = blocking(move || match digests_of(&path, size, stated.as_ref()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            found => found.map_err(|error| ModelError::io("read", &path, error)),
        });
        Ok(found.await?.filter(|found| found.stated == file.digest))
    }

    async fn open_partial(&self, file: &RemoteFile) -> Result<Partial, ModelError> {
        let (path, size, stated) = (self.cache.incomplete(&file.blob), file.size, file.digest.clone());
        blocking(move || Partial::open(&path, size, stated.as_ref())).await
    }

    /// One request. The outer error is one of this machine.
    async fn attempt(
        &self,
        file: &RemoteFile,
        mut partial: Partial,
    ) -> Result<(Partial, Result<(), ModelError>), ModelError> {
        let mut opened = match self.remote.open(self.commit, file, partial.length).await {
            Ok(opened) => opened,
            Err(error) => return Ok((partial, Err(error))),
        };
        if opened.offset != partial.length {
            partial.restart(file.size, file.digest.as_ref())?;
        }
        let mut length = partial.length;
        let (chunks, writing) = partial.append();
        let mut ended = Ok(());
        loop {
            let chunk = match tokio::time::timeout(SILENCE, opened.bytes.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(error))) => {
                    ended = Err(error);
                    break;
                }
                Err(_) => {
                    ended = Err(ModelError::unavailable(format!("{} sent nothing for {SILENCE:?}", file.path)));
                    break;
                }
            };
            length += chunk.len() as u64;
            if length > file.size {
                ended = Err(damaged(file, &format!("more than the {} bytes that were announced arrived", file.size)));
                break;
            }
            self.progress.set_done(self.before + length);
            // The thread stops only with an error, which it returns.
            if chunks.send(chunk).await.is_err() {
                break;
            }
        }
        drop(chunks);
        let (partial, written) =
            writing.await.map_err(|error| ModelError::unavailable(format!("writing stopped: {error}")))?;
        written?;
        if ended.is_ok() && partial.length < file.size {
            let sentence = format!("{} ended after {} of {} bytes", file.path, partial.length, file.size);
            ended = Err(ModelError::unavailable(sentence));
        }
        Ok((partial, ended))
    }

    fn check(&self, file: &RemoteFile, partial: &Partial) -> Result<Found, ModelError> {
        let found = partial.digests(file.digest.as_ref());
        match (&file.digest, &found.stated) {
            (Some(stated), Some(computed)) if stated != computed => Err(damaged(
                file,
                &format!("its source states {stated}, but the downloaded bytes have {}", computed.value()),
            )),
            _ => Ok(found),
        }
    }
}

fn damaged(file: &RemoteFile, what: &str) -> ModelError {
    let sentence = format!("{} was damaged on the way, or is damaged at its source: {what}", file.path);
    ModelError::new(ModelErrorKind::Damaged, sentence)
}

/// Runs blocking work on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ModelError> + Send + 'static,
) -> Result<T, ModelError> {
    let ended = spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(ModelError::unavailable(format!("work on files stopped: {error}"))))
}
