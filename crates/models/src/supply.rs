//! Gets models from their sources.

use std::collections::BTreeSet;
use std::path::PathBuf;

use aws_sdk_s3::Client;
use broker::backoff::Delays;

use crate::cache::{Cache, Lock};
use crate::download::{ATTEMPTS, BACKOFF, Download, blocking};
use crate::environment::Environment;
use crate::error::{ModelError, ModelErrorKind};
use crate::files::{INDEX, needed, shards};
use crate::hub::Hub;
use crate::manifest::{Manifest, ManifestFile};
use crate::progress::{DownloadProgress, Phase};
use crate::remote::{Listing, Remote, RemoteFile};
use crate::s3::Store;
use crate::source::ModelSource;

/// What stands for the revision of an S3 prefix.
const CURRENT: &str = "current";

/// Gets the model of one source.
#[derive(Debug)]
pub struct Supply {
    source: ModelSource,
    /// `None` for a directory.
    remote: Option<(Remote, Cache)>,
    is_offline: bool,
    progress: DownloadProgress,
}

/// What is known of a model without downloading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// It is in this directory.
    Here(PathBuf),
    /// It must be downloaded.
    ToDownload {
        /// The commit of a repository; an id of the contents of an S3 prefix.
        commit: String,
        /// Of all files, in bytes.
        bytes: u64,
    },
}

impl Supply {
    /// Access to a source. `s3` is the client for a source `s3://`. With `offline`, nothing is requested.
    ///
    /// # Errors
    /// [`ModelErrorKind::InvalidSource`] if `HF_ENDPOINT` is not an address, [`ModelErrorKind::Cache`] if no directory for
    /// the cache is known.
    pub fn new(
        source: ModelSource,
        environment: &Environment,
        s3: Option<Client>,
        offline: bool,
    ) -> Result<Self, ModelError> {
        let no_cache = || {
            ModelError::new(
                ModelErrorKind::Cache,
                "there is no directory for downloaded models: set HOME, XDG_CACHE_HOME or HF_HOME",
            )
        };
        let mut is_offline = offline;
        let remote = match &source {
            ModelSource::Directory(_) => None,
            ModelSource::Hub(model) => {
                is_offline |= environment.is_hub_offline;
                let cache = environment.hub_cache.as_deref().ok_or_else(no_cache)?;
                let root = cache.join(format!("models--{}", model.repository.replace('/', "--")));
                let hub = Hub::new(&environment.endpoint, environment.token.clone(), model.clone())?;
                Some((Remote::Hub(Box::new(hub)), Cache::new(root, model.folder.clone())))
            }
            ModelSource::S3(model) => {
                let cache = environment.s3_cache.as_deref().ok_or_else(no_cache)?;
                let name =
                    [&[model.bucket.as_str()][..], &model.prefix.split('/').collect::<Vec<_>>()].concat().join("--");
                // The model takes the name of its directory.
                let folder = model.prefix.rsplit('/').next().filter(|last| !last.is_empty()).unwrap_or(&model.bucket);
                let client = s3.ok_or_else(|| {
                    ModelError::unavailable(format!("{model} cannot be read: there is no client of the store"))
                })?;
                Some((
                    Remote::S3(Store::new(client, model.clone())),
                    Cache::new(cache.join(format!("s3--{name}")), folder.to_owned()),
                ))
            }
        };
        Ok(Self { source, remote, is_offline, progress: DownloadProgress::default() })
    }

    /// How far [`Supply::directory`] is.
    pub fn progress(&self) -> &DownloadProgress {
        &self.progress
    }

    /// The directory of the model, after downloading what is missing.
    ///
    /// # Errors
    /// [`ModelError`]. What was downloaded before is kept, and the next call goes on with it.
    pub async fn directory(&self) -> Result<PathBuf, ModelError> {
        let Some((remote, cache)) = &self.remote else {
            let ModelSource::Directory(dir) = &self.source else { return Err(self.not_cached()) };
            return Ok(dir.clone());
        };
        let listing = match self.resolve(remote, cache).await? {
            Resolved::Here(dir) => return Ok(dir),
            Resolved::Listing(listing) => listing,
        };
        if let Some(dir) = cache.complete(&listing.commit) {
            self.set_reference(cache, &listing.commit);
            return Ok(dir);
        }
        let _lock = self.lock(cache).await?;
        // Another process may have downloaded it meanwhile.
        let dir = match cache.complete(&listing.commit) {
            Some(dir) => dir,
            None => self.download(remote, cache, &listing).await?,
        };
        self.set_reference(cache, &listing.commit);
        self.progress.set_phase(Phase::Done);
        Ok(dir)
    }

    /// Whether the model is here, or how much must be downloaded. Downloads and changes nothing.
    ///
    /// # Errors
    /// [`ModelError`] if the source cannot be reached or lacks a file.
    pub async fn availability(&self) -> Result<Availability, ModelError> {
        let Some((remote, cache)) = &self.remote else { return self.directory().await.map(Availability::Here) };
        let listing = match self.resolve(remote, cache).await? {
            Resolved::Here(dir) => return Ok(Availability::Here(dir)),
            Resolved::Listing(listing) => listing,
        };
        if let Some(dir) = cache.complete(&listing.commit) {
            return Ok(Availability::Here(dir));
        }
        let names = names(&listing);
        let wanted = needed(&names, &self.source.to_string())?;
        // The shards are known only once the index is read.
        let is_shard = |name: &str| wanted.contains(&INDEX) && name.ends_with(".safetensors");
        let files = listing.files.iter().filter(|file| wanted.contains(&file.name.as_str()) || is_shard(&file.name));
        Ok(Availability::ToDownload { bytes: files.map(|file| file.size).sum(), commit: listing.commit })
    }

    /// The state at the source, or the directory if the source is not needed or cannot be reached.
    async fn resolve(&self, remote: &Remote, cache: &Cache) -> Result<Resolved, ModelError> {
        let pinned = match &self.source {
            ModelSource::Hub(model) if model.is_pinned() => Some(model.revision.clone()),
            _ => None,
        };
        let known = pinned.clone().or_else(|| cache.reference(self.revision()));
        let cached = known.and_then(|commit| Some((cache.complete(&commit)?, commit)));
        match cached {
            Some((dir, _)) if self.is_offline || pinned.is_some() => return Ok(Resolved::Here(dir)),
            None if self.is_offline => return Err(self.not_cached()),
            _ => {}
        }
        self.progress.set_phase(Phase::Listing);
        let attempts = if cached.is_some() { 1 } else { ATTEMPTS };
        match (self.list(remote, attempts).await, cached) {
            (Err(error), Some((dir, commit))) if error.kind().is_temporary() => {
                tracing::warn!(commit, "{error}; using the copy of {} downloaded last", self.source);
                Ok(Resolved::Here(dir))
            }
            (listing, _) => listing.map(Resolved::Listing),
        }
    }

    async fn list(&self, remote: &Remote, attempts: usize) -> Result<Listing, ModelError> {
        let mut delays = Delays::of(BACKOFF);
        for _ in 1..attempts {
            match remote.list().await {
                Err(error) if error.kind().is_temporary() => {
                    tracing::warn!("{error}; retrying");
                    tokio::time::sleep(delays.after_failure()).await;
                }
                ended => return ended,
            }
        }
        remote.list().await
    }

    async fn lock(&self, cache: &Cache) -> Result<Lock, ModelError> {
        let own = cache.clone();
        if let Some(lock) = blocking(move || own.try_lock()).await? {
            return Ok(lock);
        }
        tracing::info!(cache = %cache.root().display(), "waiting for another process that downloads the model");
        self.progress.set_phase(Phase::Waiting);
        let own = cache.clone();
        blocking(move || own.lock()).await
    }

    async fn download(&self, remote: &Remote, cache: &Cache, listing: &Listing) -> Result<PathBuf, ModelError> {
        let source = self.source.to_string();
        let names = names(listing);
        let mut wanted: Vec<String> = needed(&names, &source)?.into_iter().map(str::to_owned).collect();
        self.progress.set_phase(Phase::Downloading);
        if wanted.iter().any(|name| name == INDEX) {
            let index = self.file_metadata(remote, listing, INDEX).await?;
            self.fetch(remote, cache, listing, std::slice::from_ref(&index)).await?;
            let path = cache.blob(&index.blob);
            let bytes = std::fs::read(&path).map_err(|error| ModelError::io("read", &path, error))?;
            wanted.extend(shards(&bytes, &names, &source)?);
        }
        let mut files = Vec::new();
        for name in &wanted {
            files.push(self.file_metadata(remote, listing, name).await?);
        }
        let bytes: u64 = files.iter().map(|file| file.size).sum();
        tracing::info!(source, commit = listing.commit, files = files.len(), bytes, "downloading the model");
        let found = self.fetch(remote, cache, listing, &files).await?;
        self.progress.set_phase(Phase::Checking);
        let manifest = Manifest { source, commit: listing.commit.clone(), files: found };
        let own = cache.clone();
        let dir = blocking(move || own.publish(&manifest)).await?;
        tracing::info!(directory = %dir.display(), bytes, "the model is downloaded and its digests match");
        Ok(dir)
    }

    async fn file_metadata(&self, remote: &Remote, listing: &Listing, name: &str) -> Result<RemoteFile, ModelError> {
        let file = listing.files.iter().find(|file| file.name == name).cloned();
        let missing = || ModelError::new(ModelErrorKind::Incomplete, format!("{} has no file {name}", self.source));
        remote.file_metadata(&listing.commit, file.ok_or_else(missing)?).await
    }

    async fn fetch(
        &self,
        remote: &Remote,
        cache: &Cache,
        listing: &Listing,
        files: &[RemoteFile],
    ) -> Result<Vec<ManifestFile>, ModelError> {
        let total: u64 = files.iter().map(|file| file.size).sum();
        self.progress.set_total(total);
        let length = |path: PathBuf| std::fs::metadata(path).map_or(0, |found| found.len());
        let present: u64 =
            files.iter().map(|file| length(cache.blob(&file.blob)).max(length(cache.incomplete(&file.blob)))).sum();
        cache.require_space(total.saturating_sub(present))?;
        let (mut done, mut before) = (Vec::new(), 0);
        for file in files {
            let download = Download { remote, cache, commit: &listing.commit, progress: &self.progress, before };
            let digests = download.run(file).await?;
            before += file.size;
            done.push(ManifestFile {
                name: file.name.clone(),
                size: file.size,
                sha256: digests.sha256,
                stated: file.digest.clone(),
                blob: file.blob.clone(),
            });
        }
        Ok(done)
    }

    /// The name under which the commit is remembered.
    fn revision(&self) -> &str {
        match &self.source {
            ModelSource::Hub(model) => &model.revision,
            ModelSource::S3(_) | ModelSource::Directory(_) => CURRENT,
        }
    }

    /// Only later runs without a connection need it, so an error does not end this one.
    fn set_reference(&self, cache: &Cache, commit: &str) {
        let is_pinned = matches!(&self.source, ModelSource::Hub(model) if model.is_pinned());
        if !is_pinned && let Err(error) = cache.set_reference(self.revision(), commit) {
            tracing::warn!("{error}");
        }
    }

    fn not_cached(&self) -> ModelError {
        let cache = self.remote.as_ref().map(|(_, cache)| cache.root().display().to_string()).unwrap_or_default();
        ModelError::new(
            ModelErrorKind::Offline,
            format!(
                "{} is not downloaded completely in {cache}, and nothing may be requested (model.offline, --offline or HF_HUB_OFFLINE): download it once without these, or name a directory",
                self.source
            ),
        )
    }
}

enum Resolved {
    Here(PathBuf),
    Listing(Listing),
}

fn names(listing: &Listing) -> BTreeSet<&str> {
    listing.files.iter().map(|file| file.name.as_str()).collect()
}
