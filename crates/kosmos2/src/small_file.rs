//! Small files, read into memory up to a maximum size.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Maximum size of a configuration file. Most have kilobytes; the index of a checkpoint with many shards has a few
/// megabytes.
pub(crate) const MAX_CONFIG: u64 = 16 << 20;

/// Reads a file of at most `max_bytes` bytes.
///
/// # Errors
/// [`io::Error`] if the file cannot be read, is larger, or is a Git LFS pointer.
pub(crate) fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Reads one byte more to detect a larger file, since the length in its metadata may be wrong.
    File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {} MiB", max_bytes >> 20)));
    }
    check_pointer(&bytes)?;
    Ok(bytes)
}

/// The start of a pointer file, which Git LFS leaves in place of a file until it is fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Checks that a file's content is not a Git LFS pointer.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if it is.
pub(crate) fn check_pointer(bytes: &[u8]) -> io::Result<()> {
    if bytes.starts_with(LFS_POINTER) {
        let message = "it is a Git LFS pointer, not the file itself: run git lfs pull in the model's repository";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(())
}
