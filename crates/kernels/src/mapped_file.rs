//! Weight files as read-only memory maps.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

/// A file mapped read-only into memory.
///
/// Weight files are expected to be replaced by renaming, never modified in place. If another program truncates the file
/// while it is mapped, reading beyond the new end kills this process with SIGBUS.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps the whole file.
    ///
    /// # Errors
    /// An I/O error if the file cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is private to this value and is only read; the type's documentation covers modified files.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Removes the pages of a byte range from this process's resident memory; a later access reads them from the file again.
    ///
    /// This keeps the peak at one copy of the weights while they are converted. It is only advice: a failure costs memory,
    /// not correctness.
    pub fn release(&self, range: Range<usize>) {
        let end = range.end.min(self.map.len());
        if range.start < end {
            // SAFETY: the map is read-only and backed by a file, so the pages are read again with the same bytes.
            let _ =
                unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, end - range.start) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pages_read_the_same_again() {
        let path = std::env::temp_dir().join(format!("groundling-mapped-{}", std::process::id()));
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let map = MappedFile::open(&path).unwrap();
        assert_eq!(map.bytes(), bytes);
        map.release(5000..90_000);
        map.release(90_000..usize::MAX);
        assert_eq!(map.bytes(), bytes);
        std::fs::remove_file(path).unwrap();
    }
}
