//! The cache of one repository or prefix, in the layout of the hub's own tools:
//!
//! ```text
//! blobs/<digest>                 a file's contents, complete and checked
//! blobs/<digest>.incomplete      what an interrupted download left
//! snapshots/<commit>/<file>      a link to the contents
//! refs/<revision>                the commit that the revision was resolved to last
//! manifests/<commit>.json        ours: which files a complete model has
//! groundling.lock                ours: held while a process downloads
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{ModelError, ModelErrorKind};
use crate::manifest::{Manifest, ManifestFile};
use crate::source::is_commit;

/// Largest manifest or reference that is read, in bytes.
const MAX_SMALL_FILE: u64 = 1 << 20;

/// The cache of a source.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
    /// The model's directory within a snapshot.
    folder: String,
}

/// The right to change the cache, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl Cache {
    pub(crate) fn new(root: PathBuf, folder: String) -> Self {
        Self { root, folder }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn blob(&self, name: &str) -> PathBuf {
        self.root.join("blobs").join(name)
    }

    pub(crate) fn incomplete(&self, blob: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{blob}.incomplete"))
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit).join(&self.folder)
    }

    fn manifest_path(&self, commit: &str) -> PathBuf {
        let folder =
            if self.folder.is_empty() { String::new() } else { format!("--{}", self.folder.replace('/', "--")) };
        self.root.join("manifests").join(format!("{commit}{folder}.json"))
    }

    fn reference_path(&self, revision: &str) -> PathBuf {
        self.root.join("refs").join(revision)
    }

    /// The commit that a revision was resolved to last.
    pub(crate) fn reference(&self, revision: &str) -> Option<String> {
        let commit = read_small(&self.reference_path(revision)).ok()?.trim().to_owned();
        is_commit(&commit).then_some(commit)
    }

    /// The directory of a model that was downloaded completely.
    pub(crate) fn complete(&self, commit: &str) -> Option<PathBuf> {
        let manifest: Manifest = serde_json::from_str(&read_small(&self.manifest_path(commit)).ok()?).ok()?;
        let dir = self.snapshot(commit);
        let is_there = |file: &ManifestFile| {
            fs::metadata(dir.join(&file.name)).is_ok_and(|found| found.is_file() && found.len() == file.size)
        };
        (manifest.commit == commit && !manifest.files.is_empty() && manifest.files.iter().all(is_there)).then_some(dir)
    }

    /// Takes the lock if no other process has it.
    pub(crate) fn try_lock(&self) -> Result<Option<Lock>, ModelError> {
        let (path, file) = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(ModelError::io("lock", &path, error)),
        }
    }

    /// Waits for the lock.
    pub(crate) fn lock(&self) -> Result<Lock, ModelError> {
        let (path, file) = self.lock_file()?;
        file.lock().map_err(|error| ModelError::io("lock", &path, error))?;
        Ok(Lock(file))
    }

    fn lock_file(&self) -> Result<(PathBuf, File), ModelError> {
        for directory in ["blobs", "snapshots", "refs", "manifests"] {
            let path = self.root.join(directory);
            fs::create_dir_all(&path).map_err(|error| ModelError::io("create", &path, error))?;
        }
        let path = self.root.join("groundling.lock");
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        Ok((path.clone(), file.map_err(|error| ModelError::io("open", &path, error))?))
    }

    /// Checks that there is space for this many more bytes.
    pub(crate) fn require_space(&self, bytes: u64) -> Result<(), ModelError> {
        let found =
            rustix::fs::statvfs(&self.root).map_err(|error| ModelError::io("read", &self.root, error.into()))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if bytes <= free {
            return Ok(());
        }
        let sentence = format!(
            "the model takes {:.1} MB more in {}, where {:.1} MB are free: free space, or set HF_HOME or XDG_CACHE_HOME to a larger disk",
            bytes as f64 / 1e6,
            self.root.display(),
            free as f64 / 1e6
        );
        Err(ModelError::new(ModelErrorKind::DiskFull, sentence))
    }

    /// Gives checked contents their final name. They are on the disk before it.
    pub(crate) fn store_blob(&self, blob: &str) -> Result<(), ModelError> {
        let (from, to) = (self.incomplete(blob), self.blob(blob));
        let stored = File::open(&from).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&from, &to));
        stored.and_then(|()| sync_dir(&to)).map_err(|error| ModelError::io("write", &to, error))
    }

    /// Makes a model whose contents are all stored available, and returns its directory.
    pub(crate) fn publish(&self, manifest: &Manifest) -> Result<PathBuf, ModelError> {
        let dir = self.snapshot(&manifest.commit);
        let linked = fs::create_dir_all(&dir).and_then(|()| {
            manifest
                .files
                .iter()
                .try_for_each(|file| link(&self.root, &dir, file))
                .and_then(|()| File::open(&dir)?.sync_all())
        });
        linked.map_err(|error| ModelError::io("write", &dir, error))?;
        let path = self.manifest_path(&manifest.commit);
        let text = serde_json::to_vec_pretty(manifest).map_err(io::Error::from);
        let written = text.and_then(|text| write_atomically(&path, &text));
        written.map_err(|error| ModelError::io("write", &path, error))?;
        Ok(dir)
    }

    /// Records what a revision was resolved to.
    pub(crate) fn set_reference(&self, revision: &str, commit: &str) -> Result<(), ModelError> {
        if self.reference(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.reference_path(revision);
        write_atomically(&path, commit.as_bytes()).map_err(|error| ModelError::io("write", &path, error))
    }
}

/// Links a file of a snapshot to its contents. The link is relative, so that the cache can be moved.
fn link(root: &Path, dir: &Path, file: &ManifestFile) -> io::Result<()> {
    let path = dir.join(&file.name);
    let depth = dir.strip_prefix(root).map_or(0, |inner| inner.components().count());
    let target = PathBuf::from("../".repeat(depth)).join("blobs").join(&file.blob);
    if fs::read_link(&path).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let temporary = dir.join(format!("{}.link", file.name));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(&target, &temporary)?;
    fs::rename(&temporary, &path)
}

fn read_small(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_SMALL_FILE {
        return Err(ErrorKind::FileTooLarge.into());
    }
    fs::read_to_string(path)
}

fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_dir(path)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn manifest(blob: &str) -> Manifest {
        let file =
            ManifestFile { name: "config.json".into(), size: 2, sha256: "00".into(), stated: None, blob: blob.into() };
        Manifest { source: "hf://o/n".into(), commit: COMMIT.into(), files: vec![file] }
    }

    #[test]
    fn a_model_is_complete_only_with_its_manifest_and_all_its_files() {
        for folder in ["", "a/b"] {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::new(dir.path().join("models--o--n"), folder.into());
            let _lock = cache.try_lock().unwrap().unwrap();
            assert!(cache.try_lock().unwrap().is_none());
            fs::write(cache.incomplete("x"), "{}").unwrap();
            cache.store_blob("x").unwrap();
            let model = cache.publish(&manifest("x")).unwrap();
            assert_eq!(cache.complete(COMMIT), Some(model.clone()));
            assert_eq!(fs::read_to_string(model.join("config.json")).unwrap(), "{}");
            // The cache can be moved, and the same commit can be published again.
            assert!(fs::read_link(model.join("config.json")).unwrap().is_relative());
            cache.publish(&manifest("x")).unwrap();
            fs::write(cache.blob("x"), "{").unwrap();
            assert_eq!(cache.complete(COMMIT), None);
            fs::write(cache.blob("x"), "{}").unwrap();
            fs::remove_file(cache.manifest_path(COMMIT)).unwrap();
            assert_eq!(cache.complete(COMMIT), None);
        }
    }

    #[test]
    fn a_reference_is_a_commit_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned(), String::new());
        cache.set_reference("refs/pr/1", COMMIT).unwrap();
        assert_eq!(cache.reference("refs/pr/1").as_deref(), Some(COMMIT));
        fs::write(dir.path().join("refs/main"), "../../etc").unwrap();
        assert_eq!((cache.reference("main"), cache.reference("v1")), (None, None));
    }

    #[test]
    fn more_bytes_than_the_disk_has_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned(), String::new());
        cache.require_space(1).unwrap();
        assert_eq!(cache.require_space(u64::MAX).unwrap_err().kind(), ModelErrorKind::DiskFull);
    }
}
