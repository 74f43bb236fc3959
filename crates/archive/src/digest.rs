//! SHA-256 of files.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// Bytes that are read at a time.
const BUFFER: usize = 1 << 16;

/// The SHA-256 of everything that a reader yields, in lower-case hexadecimal digits.
pub(crate) fn sha256_of(mut reader: impl Read) -> io::Result<String> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; BUFFER]);
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            length => hash.update(buffer.get(..length).unwrap_or_default()),
        }
    }
}
