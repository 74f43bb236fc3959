//! Which files of a model directory hold the weights.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::CheckpointError;
use crate::small_file;

/// Finds the weight files of a model directory, in the order of preference of [`super`]. Shards are sorted by name.
///
/// # Errors
/// [`CheckpointError::NoWeights`] if there are none, [`CheckpointError::Read`] or [`CheckpointError::Malformed`] if the
/// index of the shards is unusable.
pub(super) fn weight_files(dir: &Path) -> Result<WeightFiles, CheckpointError> {
    let single = dir.join("model.safetensors");
    if single.is_file() {
        return Ok(WeightFiles::Safetensors { origin: single.clone(), shards: vec![single] });
    }
    let index = dir.join("model.safetensors.index.json");
    if index.is_file() {
        return Ok(WeightFiles::Safetensors { shards: shards_of(&index, dir)?, origin: index });
    }
    let pickle = dir.join("pytorch_model.bin");
    if pickle.is_file() {
        return Ok(WeightFiles::Pickle(pickle));
    }
    Err(CheckpointError::NoWeights { dir: dir.display().to_string() })
}

/// The files that hold the weights.
pub(super) enum WeightFiles {
    Safetensors {
        /// The file that errors about missing tensors name.
        origin: PathBuf,
        shards: Vec<PathBuf>,
    },
    Pickle(PathBuf),
}

/// The shard files that an index names, without duplicates.
fn shards_of(index: &Path, dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let file = index.display().to_string();
    let bytes = small_file::read(index, small_file::MAX_CONFIG)
        .map_err(|cause| CheckpointError::Read { file: file.clone(), cause })?;
    let parsed: Index = serde_json::from_slice(&bytes).map_err(|e| CheckpointError::Malformed {
        file: file.clone(),
        kind: "safetensors index",
        reason: e.to_string(),
    })?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if let Some(bad) = names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        let reason = format!("shard {bad:?} is not a plain file name");
        return Err(CheckpointError::Malformed { file, kind: "safetensors index", reason });
    }
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}
