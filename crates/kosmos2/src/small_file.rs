//! Files that are read whole, up to a size.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Configurations are kilobytes; the index of a checkpoint of many shards is a few megabytes.
pub(crate) const CONFIG: u64 = 16 << 20;

/// The bytes of a file of at most `most` bytes.
///
/// # Errors
/// What the system says, that the file is larger, or that it is a Git LFS pointer. No more than `most` bytes are ever held.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more tells the larger file; its length as the system tells it may be anything.
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {} MiB", most >> 20)));
    }
    check_pointer(&bytes)?;
    Ok(bytes)
}

/// How the pointer begins that Git LFS leaves in a file's place until the file itself is fetched, by its specification.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Checks that bytes are not the pointer of a file that was not fetched.
///
/// # Errors
/// That they are.
pub(crate) fn check_pointer(bytes: &[u8]) -> io::Result<()> {
    if bytes.starts_with(LFS_POINTER) {
        let sentence = "it is a Git LFS pointer, not the file itself: run git lfs pull in the model's repository";
        return Err(io::Error::new(io::ErrorKind::InvalidData, sentence));
    }
    Ok(())
}
