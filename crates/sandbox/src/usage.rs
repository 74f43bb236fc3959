//! What servers use of the machine.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Resident memory of a running process in bytes.
///
/// # Errors
/// If the process does not exist.
pub fn resident_bytes(process: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.map(|kibibytes| kibibytes * 1024).ok_or_else(|| io::Error::other("the process has no resident memory"))
}

/// Bytes of the files in a directory and those below it, as the file system counts its blocks.
///
/// # Errors
/// If one cannot be read.
pub fn disk_bytes(directory: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(total)
}
