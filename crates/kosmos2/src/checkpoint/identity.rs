//! The identity of a model, which annotations carry so that results of different weights can be told apart.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::CheckpointError;
use super::files::{WeightFiles, weight_files};
use crate::small_file;

/// Name, revision and content digest of a model directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIdentity {
    /// `owner/name` for a directory of the Hugging Face hub cache, otherwise the directory's name.
    pub name: String,
    /// The hub's commit, if the directory has it: a snapshot of the cache, or a download with metadata.
    pub revision: Option<String>,
    /// Lower-case hex SHA-256 of the names, lengths and contents of all files that affect the model's answers.
    pub digest: String,
}

/// The files besides the weights that affect answers.
const CONFIG_FILES: [&str; 4] = ["config.json", "tokenizer.json", "preprocessor_config.json", "processor_config.json"];

impl ModelIdentity {
    /// Computes the identity of a model directory. Reads all weights (about 4 s for 6.6 GB in the page cache).
    ///
    /// # Errors
    /// [`CheckpointError::Read`] if a file cannot be read, [`CheckpointError::NoWeights`] if there are no weights.
    pub fn of_dir(dir: &Path) -> Result<Self, CheckpointError> {
        let mut files: Vec<PathBuf> =
            CONFIG_FILES.iter().map(|name| dir.join(name)).filter(|path| path.is_file()).collect();
        match weight_files(dir)? {
            WeightFiles::Safetensors { shards, .. } => files.extend(shards),
            WeightFiles::Pickle(file) => files.push(file),
        }
        let mut hash = Sha256::new();
        for path in files {
            hash_file(&mut hash, &path).map_err(|cause| unreadable(&path, cause))?;
        }
        let (name, revision) = name_and_revision(&canonical(dir)?);
        Ok(Self { name, revision, digest: hex(&hash.finalize()) })
    }

    /// Only the name, without reading the weights.
    ///
    /// # Errors
    /// [`CheckpointError::Read`] if the directory does not exist.
    pub fn name_of(dir: &Path) -> Result<String, CheckpointError> {
        Ok(name_and_revision(&canonical(dir)?).0)
    }
}

fn canonical(dir: &Path) -> Result<PathBuf, CheckpointError> {
    dir.canonicalize().map_err(|cause| unreadable(dir, cause))
}

fn unreadable(path: &Path, cause: std::io::Error) -> CheckpointError {
    CheckpointError::Read { file: path.display().to_string(), cause }
}

fn hash_file(hash: &mut Sha256, path: &Path) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name);
    hash.update(file.metadata()?.len().to_le_bytes());
    let (mut buffer, mut is_start) = (vec![0; 1 << 20], true);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            n => {
                if std::mem::take(&mut is_start) {
                    small_file::check_pointer(&buffer[..n])?;
                }
                hash.update(&buffer[..n]);
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hub cache has directories `models--OWNER--NAME/snapshots/COMMIT/`. A download to another directory has the
/// commit in the first line of `.cache/huggingface/download/config.json.metadata`.
fn name_and_revision(dir: &Path) -> (String, Option<String>) {
    let part = |path: Option<&Path>| {
        path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let snapshots = dir.parent();
    let repository = part(snapshots.and_then(Path::parent));
    if let (true, Some(repository)) = (part(snapshots) == "snapshots", repository.strip_prefix("models--")) {
        return (repository.replacen("--", "/", 1), Some(part(Some(dir))));
    }
    let metadata = std::fs::read_to_string(dir.join(".cache/huggingface/download/config.json.metadata"));
    let revision = metadata.ok().and_then(|text| text.lines().next().map(|line| line.trim().to_owned()));
    (part(Some(dir)), revision.filter(|commit| !commit.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_cache_snapshot_tells_owner_name_and_commit() {
        let dir = Path::new("/cache/models--microsoft--kosmos-2-patch14-224/snapshots/e91cfbcb");
        assert_eq!(name_and_revision(dir), ("microsoft/kosmos-2-patch14-224".into(), Some("e91cfbcb".into())));
        assert_eq!(name_and_revision(Path::new("/models/mine")), ("mine".into(), None));
    }

    #[test]
    fn the_digest_changes_with_any_deciding_byte_and_not_with_the_place() {
        let write = |weights: &[u8], name: &str| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("config.json"), "{}").unwrap();
            std::fs::write(dir.path().join(name), weights).unwrap();
            ModelIdentity::of_dir(dir.path()).unwrap().digest
        };
        assert_eq!(write(b"abc", "model.safetensors"), write(b"abc", "model.safetensors"));
        assert_ne!(write(b"abc", "model.safetensors"), write(b"abd", "model.safetensors"));
        assert_ne!(write(b"abc", "model.safetensors"), write(b"abc", "pytorch_model.bin"));
    }
}
