//! Compares the bytes of a file with their MD5.

use std::io::{Error, ErrorKind, Read, Result};

use md5::{Digest, Md5};

/// Hexadecimal digits of an MD5.
const DIGITS: usize = 32;

/// A reader that fails at the end of its file if the MD5 is another one.
pub(super) struct Checked<R> {
    inner: R,
    /// The hash of the bytes so far, and what it has to be. `None` if that is not known, and after the end.
    hash: Option<(Md5, String)>,
}

impl<R: Read> Checked<R> {
    /// Checks the MD5 if `md5` is one in hexadecimal. `inner` is the file from its start.
    pub(super) fn new(inner: R, md5: Option<&str>) -> Self {
        let is_md5 = |text: &&str| text.len() == DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let hash = md5.filter(is_md5).map(|md5| (Md5::new(), md5.to_ascii_lowercase()));
        Self { inner, hash }
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let length = self.inner.read(buffer)?;
        if length > 0 {
            if let Some((hash, _)) = &mut self.hash {
                hash.update(buffer.get(..length).unwrap_or_default());
            }
            return Ok(length);
        }
        if !buffer.is_empty()
            && let Some((hash, expected)) = self.hash.take()
        {
            let found = hex::encode(hash.finalize());
            if found != expected {
                let text = format!("its MD5 is {found}, and that in the manifest of the inventory is {expected}");
                return Err(Error::new(ErrorKind::InvalidData, text));
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_another_md5_fails_at_its_end() {
        let read = |md5: Option<&str>| {
            let mut text = String::new();
            Checked::new(&b"abc"[..], md5).read_to_string(&mut text).map(|_| text)
        };
        assert_eq!(read(Some("900150983CD24FB0d6963f7d28e17f72")).unwrap(), "abc");
        let error = read(Some("000150983cd24fb0d6963f7d28e17f72")).unwrap_err().to_string();
        assert!(error.starts_with("its MD5 is 900150983cd24fb0d6963f7d28e17f72, "), "{error}");
        for unknown in [None, Some(""), Some("an ETag of parts-2")] {
            assert_eq!(read(unknown).unwrap(), "abc");
        }
    }
}
