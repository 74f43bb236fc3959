//! Chunks of a PNG file that state an orientation: EXIF, XMP, and EXIF as ImageMagick's hexadecimal text.

use std::borrow::Cow;

use fdeflate::Decompressor;
use image::metadata::Orientation;

use super::super::error::ImageError;
use super::super::format::PictureFormat;
use super::super::orientation;

/// Maximum bytes of a decompressed text: Pillow's `MAX_TEXT_CHUNK`.
const MAX_TEXT: usize = 1 << 20;
/// Maximum bytes of all decompressed texts: Pillow's `MAX_TEXT_MEMORY`.
const MAX_TEXT_MEMORY: usize = 64 << 20;
/// Initial size of the buffer for a decompressed text.
const INITIAL_BUFFER: usize = 16 << 10;

const XMP: &[u8] = b"XML:com.adobe.xmp";
const EXIF_TEXT: &[u8] = b"Raw profile type exif";

/// The relevant metadata. A later chunk replaces an earlier one of the same kind.
#[derive(Default)]
pub(super) struct Metadata<'a> {
    exif: Option<&'a [u8]>,
    /// EXIF as a hexadecimal dump after three lines.
    exif_text: Option<Cow<'a, [u8]>>,
    /// XMP from an iTXt chunk, in any encoding.
    xmp: Option<Cow<'a, [u8]>>,
    /// XMP from a text chunk, in the encoding that its chunk type prescribes.
    xmp_text: Option<Cow<'a, [u8]>>,
    /// Bytes of text that were decompressed so far.
    decompressed: usize,
}

impl<'a> Metadata<'a> {
    pub(super) fn add(&mut self, chunk_type: &[u8; 4], data: &'a [u8]) -> Result<(), ImageError> {
        match chunk_type {
            b"eXIf" => self.exif = Some(data),
            b"tEXt" => {
                let (keyword, text) = split_at_nul(data).unwrap_or((data, b""));
                match keyword {
                    b"exif" => self.exif = Some(text),
                    _ => self.set_text(keyword, Cow::Borrowed(text)),
                }
            }
            b"zTXt" => {
                let (keyword, compressed) = split_at_nul(data).unwrap_or((data, b""));
                if is_relevant(keyword) {
                    // Pillow treats a text that cannot be decompressed as empty.
                    let text = self.decompress(compressed.get(1..).unwrap_or_default())?.unwrap_or_default();
                    self.set_text(keyword, Cow::Owned(text));
                }
            }
            b"iTXt" => self.add_international_text(data)?,
            _ => {}
        }
        Ok(())
    }

    /// The fields of iTXt: keyword, compression flag, compression method, language tag, translated keyword, text.
    fn add_international_text(&mut self, data: &'a [u8]) -> Result<(), ImageError> {
        let Some((keyword, rest)) = split_at_nul(data).filter(|(keyword, _)| is_relevant(keyword)) else {
            return Ok(());
        };
        let Some((&[is_compressed, method], rest)) = rest.split_first_chunk() else { return Ok(()) };
        let Some((language, rest)) = split_at_nul(rest) else { return Ok(()) };
        let Some((translated, text)) = split_at_nul(rest) else { return Ok(()) };
        let text = match (is_compressed, method) {
            (0, _) => Cow::Borrowed(text),
            (_, 0) => match self.decompress(text)? {
                Some(text) => Cow::Owned(text),
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        if keyword == XMP {
            self.xmp = Some(text.clone());
        }
        if [language, translated, &text].iter().all(|part| str::from_utf8(part).is_ok()) {
            self.set_text(keyword, text);
        }
        Ok(())
    }

    fn set_text(&mut self, keyword: &[u8], text: Cow<'a, [u8]>) {
        match keyword {
            XMP => self.xmp_text = Some(text),
            EXIF_TEXT => self.exif_text = Some(text),
            _ => {}
        }
    }

    /// Decompresses a text; as far as possible if the data ends early, `None` if it is damaged.
    ///
    /// # Errors
    /// [`ImageError::TooMuchMetadata`].
    fn decompress(&mut self, compressed: &[u8]) -> Result<Option<Vec<u8>>, ImageError> {
        let too_much = ImageError::TooMuchMetadata { format: PictureFormat::Png };
        let (mut decompressor, mut written, mut rest) = (Decompressor::new(), 0, compressed);
        let mut text = vec![0; INITIAL_BUFFER];
        loop {
            let Ok((read, wrote)) = decompressor.read(rest, &mut text, written, false) else {
                self.decompressed += text.len();
                break if self.decompressed > MAX_TEXT_MEMORY { Err(too_much) } else { Ok(None) };
            };
            rest = rest.get(read..).unwrap_or_default();
            written += wrote;
            if decompressor.is_done() || written < text.len() && rest.is_empty() {
                self.decompressed += written;
                text.truncate(written);
                break if written > MAX_TEXT || self.decompressed > MAX_TEXT_MEMORY {
                    Err(too_much)
                } else {
                    Ok(Some(text))
                };
            }
            if written == text.len() {
                if written > MAX_TEXT {
                    return Err(too_much);
                }
                // One byte more than allowed detects a longer text.
                text.resize((2 * written).min(MAX_TEXT + 1), 0);
            }
        }
    }

    /// The orientation, in Pillow's order of precedence: EXIF, or else EXIF as text; then XMP.
    pub(super) fn orientation(&self) -> Orientation {
        let xmp = self.xmp_text.as_deref().filter(|text| !text.is_empty()).or(self.xmp.as_deref());
        if self.exif.is_some() {
            return orientation::of_metadata(self.exif, xmp);
        }
        match self.exif_text.as_deref().map(exif_from_text) {
            Some(Some(exif)) => orientation::of_metadata(Some(&exif), xmp),
            Some(None) => Orientation::NoTransforms,
            None => orientation::of_metadata(None, xmp),
        }
    }
}

/// Whether texts with this keyword may state an orientation.
fn is_relevant(keyword: &[u8]) -> bool {
    keyword == XMP || keyword == EXIF_TEXT
}

/// The bytes before and after the first NUL.
fn split_at_nul(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = data.iter().position(|&byte| byte == 0)?;
    Some((data.get(..at)?, data.get(at + 1..)?))
}

/// Decodes a hexadecimal dump after three lines as Python's `bytes.fromhex` does: white space is allowed between bytes.
/// `None` if it has other characters.
fn exif_from_text(text: &[u8]) -> Option<Vec<u8>> {
    let dump = text.splitn(4, |&byte| byte == b'\n').nth(3).unwrap_or_default();
    let mut digits = dump.iter().filter(|&&byte| byte != b'\n').peekable();
    let mut bytes = Vec::with_capacity(dump.len() / 2);
    loop {
        while digits.next_if(|byte| is_whitespace(**byte)).is_some() {}
        let Some(high) = digits.next() else { return Some(bytes) };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let pair = digit(*high)? << 4 | digit(*digits.next()?)?;
        bytes.push(pair as u8);
    }
}

/// Whether `bytes.fromhex` skips the byte.
fn is_whitespace(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}
