//! `pytorch_model.bin`: a zip archive with a pickled dictionary of tensors, `data.pkl`, and one entry for each storage.
//!
//! The file is untrusted: no code in it is executed, and memory is allocated only for bytes that exist.

mod archive;
mod machine;

use std::ops::Range;

use candle_core::DType;

use self::archive::{Archive, MAX_DIRECTORY};
use self::machine::TensorDescription;
use super::error::CheckpointError;
use super::location::TensorLocation;

/// Maximum size of the pickle, in bytes. That of the published checkpoint is below 0.2 MiB.
const MAX_PICKLE: usize = MAX_DIRECTORY;

/// Reads where the tensors of a file are. All ranges are within `bytes`.
///
/// # Errors
/// [`CheckpointError::Malformed`].
pub(super) fn read_locations(file: &str, bytes: &[u8]) -> Result<Vec<(String, TensorLocation)>, CheckpointError> {
    locations(bytes).map_err(|reason| CheckpointError::Malformed { file: file.into(), kind: "PyTorch", reason })
}

fn locations(file: &[u8]) -> Result<Vec<(String, TensorLocation)>, String> {
    let archive = Archive::read(file)?;
    let (folder, pickle) = pickle(&archive)?;
    if let Some(order) = archive.get(&format!("{folder}byteorder"))
        && file[order].trim_ascii() != b"little"
    {
        return Err("its numbers are not little-endian".to_owned());
    }
    let locate = |(name, tensor): (&str, TensorDescription)| match location(&archive, folder, tensor) {
        Ok(location) => Ok((name.to_owned(), location)),
        Err(reason) => Err(format!("tensor {}: {reason}", &name[..name.floor_char_boundary(200)])),
    };
    machine::tensors(&file[pickle])?.into_iter().map(locate).collect()
}

/// The folder of all entries, with its slash, and the range of the pickle.
fn pickle<'a>(archive: &Archive<'a>) -> Result<(&'a str, Range<usize>), String> {
    let mut folders = archive.names().filter_map(|name| std::str::from_utf8(name).ok()?.strip_suffix("data.pkl"));
    let (Some(folder), None) = (folders.next(), folders.next()) else {
        return Err("it does not have exactly one entry data.pkl".to_owned());
    };
    let pickle = archive.get(&format!("{folder}data.pkl")).unwrap_or(0..0);
    if pickle.len() > MAX_PICKLE {
        return Err(format!("its list of tensors has {} bytes, more than any checkpoint needs", pickle.len()));
    }
    Ok((folder, pickle))
}

fn location(archive: &Archive, folder: &str, tensor: TensorDescription) -> Result<TensorLocation, String> {
    let TensorDescription { class, key, offset, shape, strides } = tensor;
    let dtype = match class {
        "FloatStorage" => DType::F32,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        // An error only if the tensor is loaded: checkpoints may hold other things than weights.
        other => {
            let dtype = Err(other[..other.floor_char_boundary(100)].to_owned());
            return Ok(TensorLocation { shard: 0, dtype, shape, strides: None, bytes: 0..0 });
        }
    };
    let storage = archive.get(&format!("{folder}data/{key}")).ok_or("its storage is missing")?;
    let range = extent(offset, &shape, &strides, dtype.size_in_bytes())
        .filter(|bytes| bytes.end <= storage.len())
        .ok_or_else(|| format!("of shape {shape:?}, it is larger than its storage of {} bytes", storage.len()))?;
    let bytes = storage.start + range.start..storage.start + range.end;
    let strides = (!is_contiguous(&shape, &strides)).then_some(strides);
    Ok(TensorLocation { shard: 0, dtype: Ok(dtype), shape, strides, bytes })
}

/// The range from the first to the last element, in bytes; `None` if it overflows.
fn extent(offset: usize, shape: &[usize], strides: &[usize], width: usize) -> Option<Range<usize>> {
    let mut last = offset;
    for (&size, &stride) in shape.iter().zip(strides) {
        // A tensor without elements has an empty range, whatever its offset.
        let Some(steps) = size.checked_sub(1) else { return Some(0..0) };
        last = last.checked_add(steps.checked_mul(stride)?)?;
    }
    Some(offset.checked_mul(width)?..last.checked_add(1)?.checked_mul(width)?)
}

/// Whether a tensor is contiguous in row-major order. The stride of a dimension of size one does not matter.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut next = 1usize;
    shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == next;
        next = next.saturating_mul(size);
        fits
    })
}

/// Copies the elements of a strided tensor in row-major order. `bytes` starts with the first element and must hold all
/// elements of this shape and these strides.
pub(super) fn gather(bytes: &[u8], width: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut gathered = Vec::with_capacity(count * width);
    let mut index = vec![0; shape.len()];
    for _ in 0..count {
        let at: usize = index.iter().zip(strides).map(|(index, stride)| index * stride).sum();
        gathered.extend_from_slice(&bytes[at * width..][..width]);
        for (position, size) in index.iter_mut().zip(shape).rev() {
            *position += 1;
            if *position < *size {
                break;
            }
            *position = 0;
        }
    }
    gathered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_tensor_reach_from_its_first_element_to_its_last() {
        assert_eq!(extent(2, &[3, 4], &[4, 1], 4), Some(8..56));
        assert_eq!(extent(0, &[4, 3], &[1, 4], 2), Some(0..24));
        assert_eq!(extent(7, &[], &[], 4), Some(28..32));
        assert_eq!(extent(7, &[5, 0], &[1, 1], 4), Some(0..0));
        assert_eq!(extent(0, &[usize::MAX], &[usize::MAX], 4), None);
        assert_eq!(extent(usize::MAX, &[1], &[1], 2), None);
    }

    #[test]
    fn elements_are_gathered_in_the_order_of_their_indices() {
        assert!(is_contiguous(&[2, 1, 3], &[3, 99, 1]));
        assert!(!is_contiguous(&[3, 2], &[1, 3]));
        assert_eq!(gather(&[0, 1, 2, 3, 4, 5], 1, &[3, 2], &[1, 3]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(gather(&[7, 8], 2, &[2, 2], &[0, 0]), [7, 8, 7, 8, 7, 8, 7, 8]);
    }
}
