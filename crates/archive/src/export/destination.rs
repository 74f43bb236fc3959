//! Where an export is written: a directory, or a prefix of an S3 bucket.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::operation::head_object::HeadObjectError;
use aws_sdk_s3::primitives::ByteStream;
use broker::causes::causes;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::error::ExportError;
use crate::digest::sha256_of;

/// The directory for unfinished files of a local export, within it, so that they can be renamed into place.
const UNFINISHED: &str = "_unfinished";

/// Where an export is written. Names of files are relative to it, with `/` between parts.
#[derive(Debug, Clone)]
pub enum Destination {
    /// A directory.
    Local(PathBuf),
    /// The keys of a bucket that begin with a prefix.
    Object {
        /// Access to the store.
        client: Client,
        /// Bucket.
        bucket: String,
        /// Prefix: empty, or it ends with `/`.
        prefix: String,
    },
}

/// A directory for unfinished files.
#[derive(Debug)]
pub(crate) enum Staging {
    /// Of a local export. Locked, so that there is one export at a time.
    Within { path: PathBuf, _lock: File },
    /// Of an export to S3.
    Temporary(TempDir),
}

impl Staging {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Within { path, .. } => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Object { bucket, prefix, .. } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl Destination {
    /// Bucket and prefix of a text that begins with `s3://`; `None` for a directory.
    ///
    /// # Errors
    /// [`ExportError::NoDestination`] without a bucket or for an empty text.
    pub fn parse_object(text: &str) -> Result<Option<(String, String)>, ExportError> {
        let invalid = || ExportError::NoDestination(text.to_owned());
        let Some(rest) = text.strip_prefix("s3://") else {
            return if text.is_empty() { Err(invalid()) } else { Ok(None) };
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(invalid());
        }
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Some((bucket.to_owned(), prefix)))
    }

    /// The full name of a file, for messages.
    pub(crate) fn name_of(&self, name: &str) -> String {
        match self {
            Self::Local(path) => path.join(name).display().to_string(),
            Self::Object { bucket, prefix, .. } => format!("s3://{bucket}/{prefix}{name}"),
        }
    }

    /// Creates the directory for unfinished files, without what an earlier run left in it.
    pub(crate) fn stage(&self) -> Result<Staging, ExportError> {
        let Self::Local(root) = self else {
            return tempfile::tempdir()
                .map(Staging::Temporary)
                .map_err(|error| ExportError::file("temporary directory", error));
        };
        let path = root.join(UNFINISHED);
        let failed = |error: std::io::Error| ExportError::file(path.display(), error);
        fs::create_dir_all(&path).map_err(failed)?;
        let lock_path = path.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ExportError::InUse(self.to_string())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        for entry in fs::read_dir(&path).map_err(failed)? {
            let left = entry.map_err(failed)?.path();
            if left != lock_path {
                fs::remove_file(&left).map_err(failed)?;
            }
        }
        Ok(Staging::Within { path, _lock: lock })
    }

    /// Moves a finished file to its place, in one step: readers see all of it or nothing.
    pub(crate) async fn publish(&self, staged: &Path, name: &str) -> Result<(), ExportError> {
        let full = self.name_of(name);
        match self {
            Self::Local(root) => {
                let (from, to) = (staged.to_owned(), root.join(name));
                let rename = move || {
                    let dir = to.parent().unwrap_or(Path::new("."));
                    fs::create_dir_all(dir)?;
                    fs::rename(&from, &to)?;
                    File::open(dir)?.sync_all()
                };
                blocking(rename).await.map_err(|error| ExportError::file(full, error))
            }
            Self::Object { client, bucket, prefix } => {
                let body =
                    ByteStream::from_path(staged).await.map_err(|error| ExportError::file(&full, causes(&error)))?;
                let put = client.put_object().bucket(bucket).key(format!("{prefix}{name}")).body(body);
                put.send().await.map_err(|error| ExportError::file(&full, causes(&error)))?;
                fs::remove_file(staged).map_err(|error| ExportError::file(staged.display(), error))
            }
        }
    }

    /// Writes a small file if there is none with this name. If there is one, or another process writes it, nothing happens.
    /// Stores that do not know the condition replace the file.
    pub(crate) async fn create(&self, staging: &Path, name: &str, bytes: Vec<u8>) -> Result<(), ExportError> {
        let Self::Object { client, bucket, prefix } = self else {
            // The lock keeps others away.
            return self.write(staging, name, bytes).await;
        };
        let put = client.put_object().bucket(bucket).key(format!("{prefix}{name}")).if_none_match("*");
        match put.body(ByteStream::from(bytes.clone())).send().await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.code(), Some("PreconditionFailed" | "ConditionalRequestConflict")) => Ok(()),
            Err(error) if error.code() == Some("NotImplemented") => self.write(staging, name, bytes).await,
            Err(error) => Err(ExportError::file(self.name_of(name), causes(&error))),
        }
    }

    /// Writes a small file in one step.
    pub(crate) async fn write(&self, staging: &Path, name: &str, bytes: Vec<u8>) -> Result<(), ExportError> {
        let staged = staging.join("small");
        let write = {
            let staged = staged.clone();
            move || {
                let mut file = File::create(&staged)?;
                std::io::Write::write_all(&mut file, &bytes)?;
                file.sync_all()
            }
        };
        blocking(write).await.map_err(|error| ExportError::file(staged.display(), error))?;
        self.publish(&staged, name).await
    }

    /// The bytes of a small file; `None` if it does not exist.
    pub(crate) async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, ExportError> {
        let full = self.name_of(name);
        match self {
            Self::Local(root) => match tokio::fs::read(root.join(name)).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(ExportError::file(full, error)),
            },
            Self::Object { client, bucket, prefix } => {
                let get = client.get_object().bucket(bucket).key(format!("{prefix}{name}"));
                let found = match get.send().await {
                    Ok(found) => found,
                    Err(error) if error.code() == Some("NoSuchKey") => return Ok(None),
                    Err(error) => return Err(ExportError::file(full, causes(&error))),
                };
                let body = found.body.collect().await.map_err(|error| ExportError::file(full, causes(&error)))?;
                Ok(Some(body.into_bytes().to_vec()))
            }
        }
    }

    /// Removes a file. A file that does not exist is no error.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), ExportError> {
        let full = self.name_of(name);
        match self {
            Self::Local(root) => match tokio::fs::remove_file(root.join(name)).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ExportError::file(full, error)),
                _ => Ok(()),
            },
            Self::Object { client, bucket, prefix } => {
                let delete = client.delete_object().bucket(bucket).key(format!("{prefix}{name}"));
                delete.send().await.map(drop).map_err(|error| ExportError::file(full, causes(&error)))
            }
        }
    }

    /// SHA-256 of a file as it lies at the destination, in lower-case hexadecimal; `None` if it does not exist.
    pub(crate) async fn sha256(&self, name: &str) -> Result<Option<String>, ExportError> {
        let full = self.name_of(name);
        match self {
            Self::Local(root) => {
                let path = root.join(name);
                let digest = move || match File::open(path) {
                    Ok(file) => sha256_of(file).map(Some),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                };
                blocking(digest).await.map_err(|error| ExportError::file(full, error))
            }
            Self::Object { client, bucket, prefix } => {
                let get = client.get_object().bucket(bucket).key(format!("{prefix}{name}"));
                let mut found = match get.send().await {
                    Ok(found) => found.body,
                    Err(error) if error.code() == Some("NoSuchKey") => return Ok(None),
                    Err(error) => return Err(ExportError::file(full, causes(&error))),
                };
                let mut hash = Sha256::new();
                while let Some(chunk) = found.next().await {
                    hash.update(&chunk.map_err(|error| ExportError::file(&full, causes(&error)))?);
                }
                Ok(Some(hex::encode(hash.finalize())))
            }
        }
    }

    /// The size of a file; `None` if it does not exist.
    pub(crate) async fn size(&self, name: &str) -> Result<Option<u64>, ExportError> {
        let full = self.name_of(name);
        match self {
            Self::Local(root) => match tokio::fs::metadata(root.join(name)).await {
                Ok(found) => Ok(Some(found.len())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(ExportError::file(full, error)),
            },
            Self::Object { client, bucket, prefix } => {
                let head = client.head_object().bucket(bucket).key(format!("{prefix}{name}"));
                match head.send().await {
                    Ok(found) => Ok(found.content_length().and_then(|length| u64::try_from(length).ok())),
                    Err(error) if error.as_service_error().is_some_and(HeadObjectError::is_not_found) => Ok(None),
                    // The answer to HEAD has no body that could say more.
                    Err(error) if error.raw_response().is_some_and(|said| said.status().as_u16() == 404) => Ok(None),
                    Err(error) => Err(ExportError::file(full, causes(&error))),
                }
            }
        }
    }

    /// Names of files and folders at the top that begin with a text: the first thousand in a bucket.
    pub(crate) async fn top_names(&self, start: &str) -> Result<Vec<String>, ExportError> {
        let full = self.name_of(start);
        let mut names = Vec::new();
        match self {
            Self::Local(root) => {
                let mut entries = match tokio::fs::read_dir(root).await {
                    Ok(entries) => entries,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(names),
                    Err(error) => return Err(ExportError::file(root.display(), error)),
                };
                while let Some(entry) = entries.next_entry().await.map_err(|error| ExportError::file(&full, error))? {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
                names.retain(|name| name.starts_with(start));
            }
            Self::Object { client, bucket, prefix } => {
                let list = client.list_objects_v2().bucket(bucket).prefix(format!("{prefix}{start}")).delimiter("/");
                let found = list.send().await.map_err(|error| ExportError::file(&full, causes(&error)))?;
                let folders = found.common_prefixes().iter().filter_map(|folder| folder.prefix());
                let keys = found.contents().iter().filter_map(|object| object.key()).chain(folders);
                let keys = keys.filter_map(|key| key.strip_prefix(prefix.as_str()));
                names.extend(keys.map(|name| name.trim_end_matches('/').to_owned()));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The names of the files in a folder, in order.
    pub(crate) async fn list(&self, folder: &str) -> Result<Vec<String>, ExportError> {
        let full = self.name_of(folder);
        let mut names = Vec::new();
        match self {
            Self::Local(root) => {
                let mut entries = match tokio::fs::read_dir(root.join(folder)).await {
                    Ok(entries) => entries,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(names),
                    Err(error) => return Err(ExportError::file(full, error)),
                };
                while let Some(entry) = entries.next_entry().await.map_err(|error| ExportError::file(&full, error))? {
                    names.push(format!("{folder}/{}", entry.file_name().to_string_lossy()));
                }
            }
            Self::Object { client, bucket, prefix } => {
                let list = client.list_objects_v2().bucket(bucket).prefix(format!("{prefix}{folder}/"));
                let mut pages = list.into_paginator().send();
                while let Some(page) = pages.next().await {
                    let page = page.map_err(|error| ExportError::file(&full, causes(&error)))?;
                    let keys = page.contents().iter().filter_map(|object| object.key()?.strip_prefix(prefix.as_str()));
                    names.extend(keys.map(str::to_owned));
                }
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_directories_or_prefixes_of_a_bucket() {
        let object = |bucket: &str, prefix: &str| Some((bucket.to_owned(), prefix.to_owned()));
        assert_eq!(Destination::parse_object("out/x").unwrap(), None);
        assert_eq!(Destination::parse_object("s3://b").unwrap(), object("b", ""));
        assert_eq!(Destination::parse_object("s3://b/").unwrap(), object("b", ""));
        assert_eq!(Destination::parse_object("s3://b/a/c/").unwrap(), object("b", "a/c/"));
        for bad in ["", "s3://", "s3:///a"] {
            assert!(Destination::parse_object(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_file_is_replaced_in_one_step_and_leftovers_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::Local(dir.path().into());
        let staging = destination.stage().unwrap();
        assert!(matches!(destination.stage(), Err(ExportError::InUse(_))));
        destination.write(staging.path(), "a/b.json", b"1".to_vec()).await.unwrap();
        destination.write(staging.path(), "a/b.json", b"2".to_vec()).await.unwrap();
        assert_eq!(destination.read("a/b.json").await.unwrap().unwrap(), b"2");
        assert_eq!(destination.list("a").await.unwrap(), ["a/b.json"]);
        assert_eq!(destination.top_names("a").await.unwrap(), ["a"]);
        assert!(destination.top_names("b").await.unwrap().is_empty());
        assert_eq!(
            (destination.size("a/b.json").await.unwrap(), destination.size("a/c").await.unwrap()),
            (Some(1), None)
        );
        assert_eq!(destination.sha256("a/b.json").await.unwrap().unwrap(), hex::encode(Sha256::digest(b"2")));
        assert_eq!(destination.sha256("a/c").await.unwrap(), None);
        fs::write(staging.path().join("half"), "").unwrap();
        drop(staging);
        let staging = destination.stage().unwrap();
        assert!(!staging.path().join("half").exists());
    }
}
