//! Stored tensors, by name, in either file format.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::pickle::PthTensors;
use candle_core::{DType, Device, Tensor};
use kernels::MappedFile;
use rayon::iter::ParallelIterator;
use serde::Deserialize;

use super::header::read_header;
use super::{CheckpointError, WeightFiles, random, weight_files};
use crate::small_file;

pub(super) enum Storage {
    Safetensors { origin: String, shards: Vec<Shard>, places: HashMap<String, Place> },
    Pickle { file: String, tensors: PthTensors },
    Random { seed: u64, shapes: HashMap<String, Vec<usize>> },
}

pub(super) struct Shard {
    file: String,
    map: MappedFile,
}

/// Where a tensor lies: `bytes` counts from the start of the shard.
pub(super) struct Place {
    pub(super) shard: usize,
    pub(super) dtype: safetensors::Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Range<usize>,
}

impl Storage {
    pub(super) fn open(dir: &Path) -> Result<Self, CheckpointError> {
        match weight_files(dir)? {
            WeightFiles::Safetensors { origin, shards } => Self::open_safetensors(&origin, &shards),
            WeightFiles::Pickle(path) => {
                let file = path.display().to_string();
                let tensors = PthTensors::new(&path, None).map_err(|e| CheckpointError::Malformed {
                    file: file.clone(),
                    kind: "PyTorch",
                    reason: e.to_string(),
                })?;
                Ok(Self::Pickle { file, tensors })
            }
        }
    }

    fn open_safetensors(origin: &Path, paths: &[PathBuf]) -> Result<Self, CheckpointError> {
        let mut places: HashMap<String, Place> = HashMap::new();
        let mut shards: Vec<Shard> = Vec::with_capacity(paths.len());
        for path in paths {
            let file = path.display().to_string();
            let map = MappedFile::open(path).map_err(|source| CheckpointError::Read { file: file.clone(), source })?;
            for (name, place) in read_header(&file, map.bytes(), shards.len())? {
                if let Some(other) = places.get(&name) {
                    let other = shards[other.shard].file.clone();
                    return Err(CheckpointError::TwoShards { file, tensor: name, other });
                }
                places.insert(name, place);
            }
            shards.push(Shard { file, map });
        }
        Ok(Self::Safetensors { origin: origin.display().to_string(), shards, places })
    }

    pub(super) fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Safetensors { places, .. } => Box::new(places.keys().map(String::as_str)),
            Self::Pickle { tensors, .. } => Box::new(tensors.tensor_infos().keys().map(String::as_str)),
            Self::Random { shapes, .. } => Box::new(shapes.keys().map(String::as_str)),
        }
    }

    pub(super) fn load(
        &self,
        name: &str,
        expected: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor, CheckpointError> {
        let missing = |file: &str| CheckpointError::MissingTensor {
            file: file.into(),
            tensor: name.into(),
            expected: expected.into(),
        };
        let check_shape = |file: &str, found: &[usize]| {
            if found == expected {
                return Ok(());
            }
            Err(CheckpointError::Shape {
                file: file.into(),
                tensor: name.into(),
                expected: expected.into(),
                found: found.into(),
            })
        };
        let failed = |file: &str| {
            let (file, tensor) = (file.to_owned(), name.to_owned());
            move |source| CheckpointError::Tensor { file, tensor, source: Box::new(source) }
        };
        match self {
            Self::Safetensors { origin, shards, places } => {
                let place = places.get(name).ok_or_else(|| missing(origin))?;
                let Shard { file, map } = &shards[place.shard];
                check_shape(file, &place.shape)?;
                let stored = stored_dtype(file, name, place.dtype)?;
                let bytes = &map.bytes()[place.bytes.clone()];
                let tensor = Tensor::from_raw_buffer(bytes, stored, expected, &Device::Cpu);
                map.release(place.bytes.clone());
                tensor.and_then(|t| t.to_dtype(dtype)?.to_device(device)).map_err(failed(file))
            }
            Self::Pickle { file, tensors } => {
                let info = tensors.tensor_infos().get(name).ok_or_else(|| missing(file))?;
                check_shape(file, info.layout.dims())?;
                let tensor = tensors.get(name).map_err(failed(file))?.ok_or_else(|| missing(file))?;
                tensor.to_dtype(dtype).and_then(|t| t.to_device(device)).map_err(failed(file))
            }
            Self::Random { seed, shapes } => {
                let file = "random weights";
                check_shape(file, shapes.get(name).ok_or_else(|| missing(file))?)?;
                let values: Vec<f32> = random::values(name, expected, *seed).collect();
                let tensor = Tensor::from_vec(values, expected, &Device::Cpu);
                tensor.and_then(|t| t.to_dtype(dtype)?.to_device(device)).map_err(failed(file))
            }
        }
    }
}

fn stored_dtype(file: &str, tensor: &str, dtype: safetensors::Dtype) -> Result<DType, CheckpointError> {
    match dtype {
        safetensors::Dtype::F32 => Ok(DType::F32),
        safetensors::Dtype::F16 => Ok(DType::F16),
        safetensors::Dtype::BF16 => Ok(DType::BF16),
        other => Err(CheckpointError::StoredDType {
            file: file.into(),
            tensor: tensor.into(),
            found: format!("{other:?}").to_lowercase(),
        }),
    }
}

/// The shard files an index names, each once.
pub(super) fn shards_of(index: &Path, dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let file = index.display().to_string();
    let bytes = small_file::read(index, small_file::CONFIG)
        .map_err(|source| CheckpointError::Read { file: file.clone(), source })?;
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
