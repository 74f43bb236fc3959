//! Weight files as read-only memory maps.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

/// A file mapped read-only into memory.
///
/// Weight files are written once and replaced by rename, never changed in place. A file that another program
/// truncates while it is mapped ends this process with SIGBUS at the next read beyond its new end.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps the whole file.
    ///
    /// # Errors
    /// Whatever opening or mapping the file reports.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is private to this value and only ever read; see the type's note on files changed underneath.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Takes the pages of a byte range out of this process's resident memory; a later read fetches them from the file again.
    ///
    /// Keeps the peak at one copy of the weights while they are converted. Only advice: a failure costs memory, not correctness.
    pub fn release(&self, range: Range<usize>) {
        let end = range.end.min(self.map.len());
        if range.start < end {
            // SAFETY: the map is read-only and backed by a file, so dropped pages come back with the same bytes.
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
