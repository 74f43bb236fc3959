//! SHA-256 of files, and the first bits of it as a key.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// Bytes that are read at a time.
const BUFFER: usize = 1 << 16;

/// The first 128 bits of the SHA-256, big-endian: enough to tell values apart, with less memory.
pub(crate) fn sha256_u128(bytes: &[u8]) -> u128 {
    Sha256::digest(bytes).iter().take(16).fold(0, |bits, byte| bits << 8 | u128::from(*byte))
}

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

#[cfg(test)]
mod tests {
    use wire::identity::sha256_hex;

    use super::*;

    #[test]
    fn the_first_bits_are_those_of_the_hexadecimal_digest() {
        let digits = format!("{:032x}", sha256_u128(b"a"));
        assert_eq!(Some(digits.as_str()), sha256_hex(b"a").get(..32));
    }
}
