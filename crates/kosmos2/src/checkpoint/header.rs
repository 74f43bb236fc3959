//! The header of a safetensors file: an 8-byte little-endian length, then JSON of that length. The data follow it.

use std::collections::HashSet;
use std::fmt;

use candle_core::DType;
use safetensors::{Dtype, SafeTensors};
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::CheckpointError;
use super::location::TensorLocation;

/// Maximum length of a header. A file with a larger one is not a truncated file, but one in another format.
const MAX_HEADER: u64 = 100_000_000;

/// Reads where the tensors of a file are. All ranges are within `bytes`.
///
/// # Errors
/// [`CheckpointError::Truncated`] or [`CheckpointError::Malformed`].
pub(super) fn read_header(
    file: &str,
    bytes: &[u8],
    shard: usize,
) -> Result<Vec<(String, TensorLocation)>, CheckpointError> {
    let truncated =
        |expected: u64| CheckpointError::Truncated { file: file.into(), expected, found: bytes.len() as u64 };
    let malformed = |reason: String| CheckpointError::Malformed { file: file.into(), kind: "safetensors", reason };
    let Some(length) = bytes.first_chunk::<8>() else {
        return Err(truncated(8));
    };
    let header_end = u64::from_le_bytes(*length).saturating_add(8);
    if header_end > MAX_HEADER {
        return Err(malformed(format!("its header would have {header_end} bytes")));
    }
    let Some(json) = bytes.get(8..header_end as usize) else {
        return Err(truncated(header_end));
    };
    // Checked first, since the safetensors crate accepts duplicate names and sums up offsets unchecked.
    let Outline { end } = serde_json::from_slice(json).map_err(|e| malformed(e.to_string()))?;
    let end = end.saturating_add(header_end);
    if end > bytes.len() as u64 {
        return Err(truncated(end));
    }
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| malformed(e.to_string()))?;
    let data = header_end as usize;
    let location = |info: &safetensors::tensor::TensorInfo| TensorLocation {
        shard,
        dtype: stored_dtype(info.dtype),
        shape: info.shape.clone(),
        strides: None,
        bytes: data + info.data_offsets.0..data + info.data_offsets.1,
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, location(info))).collect())
}

/// The dtype, or the name of an unsupported one.
fn stored_dtype(dtype: Dtype) -> Result<DType, String> {
    match dtype {
        Dtype::F32 => Ok(DType::F32),
        Dtype::F16 => Ok(DType::F16),
        Dtype::BF16 => Ok(DType::BF16),
        other => Err(format!("{other:?}").to_lowercase()),
    }
}

/// A header whose tensor names are unique.
struct Outline {
    /// Largest end of a tensor, relative to the start of the data.
    end: u64,
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Tensors)
    }
}

#[derive(Deserialize)]
struct Tensor {
    data_offsets: (u64, u64),
}

struct Tensors;

impl<'de> Visitor<'de> for Tensors {
    type Value = Outline;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline, A::Error> {
        let (mut names, mut end) = (HashSet::new(), 0);
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                end = end.max(map.next_value::<Tensor>()?.data_offsets.1);
            }
            if let Some(twice) = names.replace(name) {
                return Err(A::Error::custom(format_args!("it names {twice} twice")));
            }
        }
        Ok(Outline { end })
    }
}
