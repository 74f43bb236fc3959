//! Stored tensors by name, in any of the file formats.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use kernels::MappedFile;
use rayon::iter::ParallelIterator;

use super::error::CheckpointError;
use super::files::{WeightFiles, weight_files};
use super::header::read_header;
use super::location::TensorLocation;
use super::pickle::{gather, read_locations};
use super::random;
use crate::small_file;

pub(super) enum Storage {
    Files { origin: String, shards: Vec<Shard>, locations: HashMap<String, TensorLocation> },
    Random { seed: u64, shapes: HashMap<String, Vec<usize>> },
}

pub(super) struct Shard {
    file: String,
    map: MappedFile,
}

impl Storage {
    pub(super) fn open(dir: &Path) -> Result<Self, CheckpointError> {
        match weight_files(dir)? {
            WeightFiles::Safetensors { origin, shards } => Self::open_files(&origin, &shards, read_header),
            WeightFiles::Pickle(path) => {
                let read = |file: &str, bytes: &[u8], _| read_locations(file, bytes);
                Self::open_files(&path, std::slice::from_ref(&path), read)
            }
        }
    }

    fn open_files(
        origin: &Path,
        paths: &[PathBuf],
        read: impl Fn(&str, &[u8], usize) -> Result<Vec<(String, TensorLocation)>, CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let mut locations: HashMap<String, TensorLocation> = HashMap::new();
        let mut shards: Vec<Shard> = Vec::with_capacity(paths.len());
        for path in paths {
            let file = path.display().to_string();
            let map = MappedFile::open(path).map_err(|cause| CheckpointError::Read { file: file.clone(), cause })?;
            small_file::check_pointer(map.bytes())
                .map_err(|cause| CheckpointError::Read { file: file.clone(), cause })?;
            for (name, location) in read(&file, map.bytes(), shards.len())? {
                if let Some(other) = locations.get(&name) {
                    let other = shards[other.shard].file.clone();
                    return Err(CheckpointError::TwoShards { file, tensor: name, other });
                }
                locations.insert(name, location);
            }
            shards.push(Shard { file, map });
        }
        Ok(Self::Files { origin: origin.display().to_string(), shards, locations })
    }

    pub(super) fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Files { locations, .. } => Box::new(locations.keys().map(String::as_str)),
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
            Self::Files { origin, shards, locations } => {
                let location = locations.get(name).ok_or_else(|| missing(origin))?;
                let Shard { file, map } = &shards[location.shard];
                check_shape(file, &location.shape)?;
                let stored = location.dtype.clone().map_err(|found| CheckpointError::StoredDType {
                    file: file.clone(),
                    tensor: name.into(),
                    found,
                })?;
                let bytes = &map.bytes()[location.bytes.clone()];
                let tensor = match &location.strides {
                    // Faster than candle, which copies the values and converts them one by one.
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
                map.release(location.bytes.clone());
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
