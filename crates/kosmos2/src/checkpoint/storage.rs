//! Stored tensors, by name, in either file format.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use kernels::MappedFile;
use rayon::iter::ParallelIterator;
use serde::Deserialize;

use super::header::read_header;
use super::pickle::{gather, read_places};
use super::{CheckpointError, WeightFiles, random, weight_files};
use crate::small_file;

pub(super) enum Storage {
    Files { origin: String, shards: Vec<Shard>, places: HashMap<String, Place> },
    Random { seed: u64, shapes: HashMap<String, Vec<usize>> },
}

pub(super) struct Shard {
    file: String,
    map: MappedFile,
}

/// Where a tensor lies: `bytes` counts from the start of the shard.
pub(super) struct Place {
    pub(super) shard: usize,
    /// The dtype, or the name of one that weights do not come in.
    pub(super) dtype: Result<DType, String>,
    pub(super) shape: Vec<usize>,
    /// Elements from one index to the next, where they do not follow each other in the order of their indices.
    pub(super) strides: Option<Vec<usize>>,
    pub(super) bytes: Range<usize>,
}

impl Storage {
    pub(super) fn open(dir: &Path) -> Result<Self, CheckpointError> {
        match weight_files(dir)? {
            WeightFiles::Safetensors { origin, shards } => Self::open_files(&origin, &shards, read_header),
            WeightFiles::Pickle(path) => {
                let read = |file: &str, bytes: &[u8], _| read_places(file, bytes);
                Self::open_files(&path, std::slice::from_ref(&path), read)
            }
        }
    }

    fn open_files(
        origin: &Path,
        paths: &[PathBuf],
        read: impl Fn(&str, &[u8], usize) -> Result<Vec<(String, Place)>, CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let mut places: HashMap<String, Place> = HashMap::new();
        let mut shards: Vec<Shard> = Vec::with_capacity(paths.len());
        for path in paths {
            let file = path.display().to_string();
            let map = MappedFile::open(path).map_err(|cause| CheckpointError::Read { file: file.clone(), cause })?;
            small_file::check_pointer(map.bytes())
                .map_err(|cause| CheckpointError::Read { file: file.clone(), cause })?;
            for (name, place) in read(&file, map.bytes(), shards.len())? {
                if let Some(other) = places.get(&name) {
                    let other = shards[other.shard].file.clone();
                    return Err(CheckpointError::TwoShards { file, tensor: name, other });
                }
                places.insert(name, place);
            }
            shards.push(Shard { file, map });
        }
        Ok(Self::Files { origin: origin.display().to_string(), shards, places })
    }

    pub(super) fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Files { places, .. } => Box::new(places.keys().map(String::as_str)),
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
            move |cause| CheckpointError::Tensor { file, tensor, cause: Box::new(cause) }
        };
        match self {
            Self::Files { origin, shards, places } => {
                let place = places.get(name).ok_or_else(|| missing(origin))?;
                let Shard { file, map } = &shards[place.shard];
                check_shape(file, &place.shape)?;
                let stored = place.dtype.clone().map_err(|found| CheckpointError::StoredDType {
                    file: file.clone(),
                    tensor: name.into(),
                    found,
                })?;
                let bytes = &map.bytes()[place.bytes.clone()];
                let tensor = match &place.strides {
                    // candle widens value by value, after a copy.
                    None if (stored, dtype) == (DType::F16, DType::F32) => {
                        let halves: Vec<f16> =
                            bytes.as_chunks().0.iter().map(|half| f16::from_le_bytes(*half)).collect();
                        Tensor::from_vec(halves.to_f32_vec(), expected, &Device::Cpu)
                    }
                    None => Tensor::from_raw_buffer(bytes, stored, expected, &Device::Cpu),
                    Some(strides) => {
                        let gathered = gather(bytes, stored.size_in_bytes(), expected, strides);
                        Tensor::from_raw_buffer(&gathered, stored, expected, &Device::Cpu)
                    }
                };
                map.release(place.bytes.clone());
                tensor.and_then(|t| t.to_dtype(dtype)?.to_device(device)).map_err(failed(file))
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

/// The shard files an index names, each once.
pub(super) fn shards_of(index: &Path, dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let file = index.display().to_string();
    let bytes = small_file::read(index, small_file::CONFIG)
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
