//! Removes a `Content-Encoding` while a body arrives, without exceeding a limit on its bytes.
//!
//! `gzip`, `x-gzip` and `deflate` are decoded, also if several were applied. `identity` and `aws-chunked` do not change
//! the bytes. Wrong headers are common (`utf-8`, `base64`, `gzip` on a plain JPEG), so bytes that begin like a picture
//! are kept as they are.

use std::io;

use bytes::{Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use kosmos2::processor::image::{DecodeOptions, Header, ImageError};
use md5::{Digest, Md5};

use super::layers::{Counted, Inflate, Layer, Limited, is_overflow};

/// Bytes that are inspected before the decoding is chosen. They suffice to recognise every picture format.
const FIRST: usize = 64;
/// Maximum number of encodings applied to one object.
const MAX_CODINGS: usize = 4;

/// A body that is being received.
pub(super) struct Body {
    encoding: String,
    state: State,
    most: u64,
    arrived: u64,
}

enum State {
    /// Not enough bytes have arrived to choose the decoding.
    First(BytesMut),
    /// The bytes are kept as they are.
    Plain(BytesMut),
    /// The bytes are decoded as they arrive.
    Coded(Box<dyn Layer>, Md5),
    /// Decoding has failed. The rest is read only to compute the digest.
    Damaged(io::Error, Md5),
}

/// A complete body.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    /// The MD5 of the stored bytes, if `bytes` were decoded from them.
    pub(super) stored_md5: Option<String>,
}

/// Why a body was rejected.
#[derive(Debug)]
pub(super) enum BodyError {
    /// It has too many bytes, encoded or decoded.
    Larger,
    /// Its encoding, with this name, is not supported.
    Unsupported(String),
    /// It cannot be decoded.
    Damaged { encoding: String, reason: String, stored_md5: String },
}

impl Body {
    /// A body with this `Content-Encoding` and at most `most` bytes.
    pub(super) fn new(encoding: Option<&str>, most: u64) -> Self {
        let encoding = encoding.unwrap_or_default().to_owned();
        Self { encoding, state: State::First(BytesMut::new()), most, arrived: 0 }
    }

    /// Adds the next bytes.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), BodyError> {
        self.arrived = self.arrived.saturating_add(chunk.len() as u64);
        if self.arrived > self.most {
            return Err(BodyError::Larger);
        }
        match &mut self.state {
            State::First(first) => {
                first.extend_from_slice(chunk);
                if first.len() >= FIRST { self.decide() } else { Ok(()) }
            }
            State::Plain(bytes) => {
                bytes.extend_from_slice(chunk);
                Ok(())
            }
            State::Damaged(_, md5) => {
                md5.update(chunk);
                Ok(())
            }
            State::Coded(..) => self.decode(chunk),
        }
    }

    /// The number of bytes that have arrived, before decoding.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Finishes the body.
    pub(super) fn end(mut self) -> Result<Whole, BodyError> {
        if matches!(self.state, State::First(_)) {
            self.decide()?;
        }
        let (ended, md5) = match self.state {
            State::First(bytes) | State::Plain(bytes) => {
                return Ok(Whole { bytes: bytes.freeze(), stored_md5: None });
            }
            State::Coded(layer, md5) => (layer.end(), md5),
            State::Damaged(error, md5) => (Err(error), md5),
        };
        let stored_md5 = hex::encode(md5.finalize());
        match ended {
            Ok(bytes) => Ok(Whole { bytes: bytes.into(), stored_md5: Some(stored_md5) }),
            Err(error) if is_overflow(&error) => Err(BodyError::Larger),
            Err(error) => Err(BodyError::Damaged { encoding: self.encoding, reason: error.to_string(), stored_md5 }),
        }
    }

    /// Chooses the decoding by the bytes that have arrived.
    fn decide(&mut self) -> Result<(), BodyError> {
        let State::First(first) = &mut self.state else { return Ok(()) };
        let first = std::mem::take(first);
        let codings = match codings(&self.encoding) {
            // Nothing to decode, or the bytes are a picture despite the header.
            Ok(codings) if codings.is_empty() => None,
            _ if is_picture(&first) => None,
            Ok(codings) => Some(codings),
            Err(_) if first.is_empty() => None,
            Err(name) => return Err(BodyError::Unsupported(name)),
        };
        let Some(codings) = codings else {
            self.state = State::Plain(first);
            return Ok(());
        };
        let mut layer: Box<dyn Layer> = Box::new(Limited::new(self.most));
        for coding in codings {
            let next = Counted::new(layer, self.most);
            layer = match coding {
                Coding::Gzip => Box::new(MultiGzDecoder::new(next)),
                Coding::Deflate => Box::new(Inflate::new(next)),
            };
        }
        self.state = State::Coded(layer, Md5::new());
        self.decode(&first)
    }

    fn decode(&mut self, chunk: &[u8]) -> Result<(), BodyError> {
        let State::Coded(layer, md5) = &mut self.state else { return Ok(()) };
        md5.update(chunk);
        match layer.write_all(chunk) {
            Ok(()) => Ok(()),
            Err(error) if is_overflow(&error) => Err(BodyError::Larger),
            Err(error) => {
                self.state = State::Damaged(error, std::mem::take(md5));
                Ok(())
            }
        }
    }
}

/// Whether bytes begin like a supported picture format.
fn is_picture(first: &[u8]) -> bool {
    // gzip itself is recognised as no picture.
    !matches!(
        Header::read(first, &DecodeOptions::default()),
        Err(ImageError::UnknownFormat
            | ImageError::UnsupportedFormat { .. }
            | ImageError::NotAPicture { .. }
            | ImageError::Empty)
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
}

/// The codings of a header in the order in which they were applied. The error is the first unsupported one.
fn codings(header: &str) -> Result<Vec<Coding>, String> {
    let mut found = Vec::new();
    for name in header.split(',').map(str::trim) {
        match name.to_ascii_lowercase().as_str() {
            // Stores remove the `aws-chunked` framing of an upload.
            "" | "identity" | "aws-chunked" => {}
            "gzip" | "x-gzip" => found.push(Coding::Gzip),
            "deflate" => found.push(Coding::Deflate),
            _ => return Err(name.to_owned()),
        }
    }
    if found.len() > MAX_CODINGS { Err(header.to_owned()) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    const PICTURE: &[u8] =
        b"\x89PNG\r\n\x1a\n and so on, for longer than the bytes that are looked at first, which are 64 of them";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn raw_deflate(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(encoding: &str, stored: &[u8], most: u64, chunk: usize) -> Result<Whole, BodyError> {
        let mut body = Body::new(Some(encoding), most);
        stored.chunks(chunk).try_for_each(|chunk| body.push(chunk))?;
        body.end()
    }

    #[test]
    fn supported_encodings_are_removed_in_pieces_of_any_size() {
        let twice = gzip(&zlib(PICTURE));
        let members = [gzip(&PICTURE[..40]), gzip(&PICTURE[40..])].concat();
        for (encoding, stored) in [
            ("gzip", gzip(PICTURE)),
            ("X-GZip", gzip(PICTURE)),
            ("gzip", members),
            ("deflate", zlib(PICTURE)),
            ("deflate", raw_deflate(PICTURE)),
            ("deflate, gzip", twice),
            ("gzip,aws-chunked", gzip(PICTURE)),
        ] {
            for chunk in [1, 7, 10_000] {
                let whole = read(encoding, &stored, 10_000, chunk).unwrap();
                assert_eq!(whole.bytes, PICTURE, "{encoding} in pieces of {chunk}");
                assert_eq!(whole.stored_md5, Some(hex::encode(Md5::digest(&stored))), "{encoding}");
            }
        }
    }

    #[test]
    fn bytes_that_are_a_picture_are_taken_as_they_are() {
        for encoding in ["", "identity", "aws-chunked", "gzip", "deflate", "br", "utf-8", "base64"] {
            let whole = read(encoding, PICTURE, 10_000, 5).unwrap();
            assert_eq!((&whole.bytes[..], whole.stored_md5), (PICTURE, None), "{encoding}");
        }
    }

    #[test]
    fn an_unsupported_encoding_is_named() {
        for (encoding, name) in
            [("br", "br"), ("gzip, zstd", "zstd"), ("gzip,gzip,gzip,gzip,gzip", "gzip,gzip,gzip,gzip,gzip")]
        {
            let error = read(encoding, &[0x1b; 100], 10_000, 10).unwrap_err();
            assert!(matches!(&error, BodyError::Unsupported(said) if said == name), "{encoding}: {error:?}");
        }
    }

    #[test]
    fn a_small_body_that_unpacks_to_more_than_allowed_is_stopped() {
        let bomb = gzip(&vec![0; 4 << 20]);
        let nested = gzip(&bomb);
        let many_empty_members = gzip(&gzip(b"").repeat(50_000));
        for (encoding, stored) in [
            ("gzip", &bomb),
            ("gzip, gzip", &nested),
            ("deflate", &zlib(&vec![0; 4 << 20])),
            ("gzip,gzip", &many_empty_members),
        ] {
            let error = read(encoding, stored, 1 << 18, 1 << 20).unwrap_err();
            assert!(matches!(error, BodyError::Larger), "{encoding}: {error:?}");
        }
        let thousand = gzip(&[0; 1000]);
        assert!(read("gzip", &thousand, 1000, 9).is_ok());
        assert!(matches!(read("gzip", &thousand, 999, 9), Err(BodyError::Larger)));
    }

    #[test]
    fn data_that_is_not_what_its_encoding_says_is_damaged() {
        let mut flipped = gzip(PICTURE);
        let last = flipped.len() - 6;
        flipped[last] ^= 1;
        let (short, cut) = (gzip(PICTURE), zlib(PICTURE));
        for (encoding, stored) in [
            ("gzip", &flipped[..]),
            ("gzip", &short[..short.len() - 3]),
            ("gzip", &short[..8]),
            ("deflate", &cut[..cut.len() - 9]),
            ("gzip", b"a text that is not compressed at all, and that is longer than sixty-four bytes"),
            ("deflate", &[0xff; 100]),
        ] {
            for chunk in [1, 10_000] {
                match read(encoding, stored, 10_000, chunk) {
                    Err(BodyError::Damaged { stored_md5, .. }) => {
                        assert_eq!(stored_md5, hex::encode(Md5::digest(stored)), "{encoding}");
                    }
                    other => panic!("{encoding} in pieces of {chunk}: {other:?}"),
                }
            }
        }
    }
}
