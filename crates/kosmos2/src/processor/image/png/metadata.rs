//! What a PNG file's chunks say of its orientation: EXIF, XMP, and EXIF as text that ImageMagick writes.

use std::borrow::Cow;

use fdeflate::Decompressor;
use image::metadata::Orientation;

use super::super::decode::{ImageError, PictureFormat};
use super::super::orientation;

/// Most bytes that one text may unpack to. Pillow's limit.
const LONGEST_TEXT: usize = 1 << 20;
/// Most bytes that all texts together may unpack to. Pillow's limit.
const LONGEST_TEXTS: usize = 64 << 20;
/// Room for a text when it begins to be unpacked.
const FIRST_ROOM: usize = 16 << 10;

const XMP: &[u8] = b"XML:com.adobe.xmp";
const EXIF_TEXT: &[u8] = b"Raw profile type exif";

/// The last of each kind counts.
#[derive(Default)]
pub(super) struct Metadata<'a> {
    exif: Option<&'a [u8]>,
    /// A hexadecimal dump of EXIF behind three lines.
    exif_text: Option<Cow<'a, [u8]>>,
    /// XMP of whatever encoding, from an international text.
    xmp: Option<Cow<'a, [u8]>>,
    /// XMP of a text in the encoding that its chunk prescribes.
    xmp_text: Option<Cow<'a, [u8]>>,
    unpacked: usize,
}

impl<'a> Metadata<'a> {
    pub(super) fn take(&mut self, kind: &[u8; 4], data: &'a [u8]) -> Result<(), ImageError> {
        match kind {
            b"eXIf" => self.exif = Some(data),
            b"tEXt" => {
                let (keyword, text) = split(data).unwrap_or((data, b""));
                match keyword {
                    b"exif" => self.exif = Some(text),
                    _ => self.set_text(keyword, Cow::Borrowed(text)),
                }
            }
            b"zTXt" => {
                let (keyword, packed) = split(data).unwrap_or((data, b""));
                if is_read(keyword) {
                    // A text that cannot be unpacked counts as an empty one.
                    let text = self.unpack(packed.get(1..).unwrap_or_default())?.unwrap_or_default();
                    self.set_text(keyword, Cow::Owned(text));
                }
            }
            b"iTXt" => self.take_international(data)?,
            _ => {}
        }
        Ok(())
    }

    /// Keyword, whether the text is packed, how, language, keyword in that language, text.
    fn take_international(&mut self, data: &'a [u8]) -> Result<(), ImageError> {
        let Some((keyword, rest)) = split(data).filter(|(keyword, _)| is_read(keyword)) else { return Ok(()) };
        let Some((&[is_packed, packing], rest)) = rest.split_first_chunk() else { return Ok(()) };
        let Some((language, rest)) = split(rest) else { return Ok(()) };
        let Some((translated, text)) = split(rest) else { return Ok(()) };
        let text = match (is_packed, packing) {
            (0, _) => Cow::Borrowed(text),
            (_, 0) => match self.unpack(text)? {
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

    /// As much as can be unpacked where the data end early; `None` where they are damaged.
    fn unpack(&mut self, packed: &[u8]) -> Result<Option<Vec<u8>>, ImageError> {
        let too_much = ImageError::TooMuchMetadata { format: PictureFormat::Png };
        let (mut unpacker, mut text, mut written, mut rest) = (Decompressor::new(), vec![0; FIRST_ROOM], 0, packed);
        loop {
            let Ok((read, wrote)) = unpacker.read(rest, &mut text, written, false) else {
                self.unpacked += text.len();
                break if self.unpacked > LONGEST_TEXTS { Err(too_much) } else { Ok(None) };
            };
            rest = rest.get(read..).unwrap_or_default();
            written += wrote;
            if unpacker.is_done() || written < text.len() && rest.is_empty() {
                self.unpacked += written;
                text.truncate(written);
                break if written > LONGEST_TEXT || self.unpacked > LONGEST_TEXTS {
                    Err(too_much)
                } else {
                    Ok(Some(text))
                };
            }
            if written == text.len() {
                if written > LONGEST_TEXT {
                    return Err(too_much);
                }
                // One byte more than allowed shows that there is more.
                text.resize((2 * written).min(LONGEST_TEXT + 1), 0);
            }
        }
    }

    /// Pillow's order: EXIF, else EXIF as text; then XMP.
    pub(super) fn orientation(&self) -> Orientation {
        let xmp = self.xmp_text.as_deref().filter(|text| !text.is_empty()).or(self.xmp.as_deref());
        if self.exif.is_some() {
            return orientation::of_metadata(self.exif, xmp);
        }
        match self.exif_text.as_deref().map(exif_of_text) {
            Some(Some(exif)) => orientation::of_metadata(Some(&exif), xmp),
            Some(None) => Orientation::NoTransforms,
            None => orientation::of_metadata(None, xmp),
        }
    }
}

/// Whether a text of this keyword can say anything of the orientation.
fn is_read(keyword: &[u8]) -> bool {
    keyword == XMP || keyword == EXIF_TEXT
}

/// What stands before and behind the first zero.
fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = data.iter().position(|&byte| byte == 0)?;
    Some((data.get(..at)?, data.get(at + 1..)?))
}

/// The bytes of a hexadecimal dump behind three lines, with blanks between pairs of digits.
fn exif_of_text(text: &[u8]) -> Option<Vec<u8>> {
    let dump = text.splitn(4, |&byte| byte == b'\n').nth(3).unwrap_or_default();
    let mut digits = dump.iter().filter(|&&byte| byte != b'\n').peekable();
    let mut bytes = Vec::with_capacity(dump.len() / 2);
    loop {
        while digits.next_if(|byte| is_blank(**byte)).is_some() {}
        let Some(high) = digits.next() else { return Some(bytes) };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let pair = digit(*high)? << 4 | digit(*digits.next()?)?;
        bytes.push(pair as u8);
    }
}

/// Python's white space.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}
