//! The segments of a JPEG file before its first scan: metadata, and the kind of its frame.

use image::metadata::Orientation;

use super::super::decode::ImageError;
use super::super::orientation;

const EXIF: &[u8] = b"Exif\0\0";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const APP1: u8 = 0xe1;
const START_OF_SCAN: u8 = 0xda;

/// What stands before the first scan.
#[derive(Debug, Default)]
pub(super) struct Segments<'a> {
    /// All EXIF segments one behind the other.
    exif: Option<Vec<u8>>,
    /// The last one.
    xmp: Option<&'a [u8]>,
    /// Marker and header of the first frame.
    frame: Option<(u8, &'a [u8])>,
}

impl<'a> Segments<'a> {
    pub(super) fn read(file: &'a [u8]) -> Self {
        let mut found = Self::default();
        let mut at = 2;
        while let Some(skipped) = file.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff)) {
            at += skipped;
            let Some(&marker) = file.get(at + 1) else { break };
            match marker {
                // Any number of these may stand before a marker.
                0xff => at += 1,
                // No marker, or one without a length.
                0x00..=0xbf | 0xc8 | 0xd0..=0xd9 | 0xf0..=0xfd => at += 2,
                START_OF_SCAN => break,
                _ => {
                    let Some(length) = file.get(at + 2..).and_then(|rest| rest.first_chunk()) else { break };
                    let end = at + 2 + usize::from(u16::from_be_bytes(*length)).max(2);
                    let Some(data) = file.get(at + 4..end) else { break };
                    found.take(marker, data);
                    at = end;
                }
            }
        }
        found
    }

    fn take(&mut self, marker: u8, data: &'a [u8]) {
        match marker {
            APP1 => match (data.strip_prefix(EXIF), data.strip_prefix(XMP)) {
                (Some(exif), _) => match &mut self.exif {
                    Some(before) => before.extend(exif),
                    None => self.exif = Some(data.to_vec()),
                },
                (_, Some(xmp)) => self.xmp = Some(xmp),
                _ => {}
            },
            // Frame headers, but not the tables that stand among their numbers.
            0xc0..=0xcf | 0xde if !matches!(marker, 0xc4 | 0xcc) => {
                self.frame = self.frame.or(Some((marker, data)));
            }
            _ => {}
        }
    }

    pub(super) fn orientation(&self) -> Orientation {
        orientation::of_metadata(self.exif.as_deref(), self.xmp)
    }

    /// An error that names the kind of JPEG, if it is one that neither Pillow nor the decoder reads.
    pub(super) fn check_kind(&self) -> Result<(), ImageError> {
        let Some((marker, header)) = self.frame else { return Ok(()) };
        let what = match (marker, header) {
            (0xc3 | 0xcb, _) => "lossless JPEG".to_owned(),
            (0xc5..=0xc7 | 0xcd..=0xcf | 0xde, _) => "hierarchical JPEG".to_owned(),
            (_, [bits @ (2..=7 | 9..=16), ..]) => format!("JPEG of {bits} bits a sample"),
            (_, [_, _, _, _, _, count @ (2 | 5..), components @ ..]) if components.len() == 3 * usize::from(*count) => {
                format!("JPEG of {count} components")
            }
            _ => return Ok(()),
        };
        Err(ImageError::Unsupported { what })
    }
}
