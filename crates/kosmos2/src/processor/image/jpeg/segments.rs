//! The segments of a JPEG file before its first scan: metadata and the frame header.

use image::metadata::Orientation;

use super::super::error::ImageError;
use super::super::orientation;

const EXIF: &[u8] = b"Exif\0\0";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const APP1: u8 = 0xe1;
const START_OF_SCAN: u8 = 0xda;

/// What the segments before the first scan hold.
#[derive(Debug, Default)]
pub(super) struct Segments<'a> {
    /// All EXIF segments, concatenated as by Pillow.
    exif: Option<Vec<u8>>,
    /// The last XMP segment.
    xmp: Option<&'a [u8]>,
    /// Marker and content of the first frame header.
    frame: Option<(u8, &'a [u8])>,
}

impl<'a> Segments<'a> {
    pub(super) fn read(file: &'a [u8]) -> Self {
        let mut segments = Self::default();
        let mut at = 2;
        while let Some(skipped) = file.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff)) {
            at += skipped;
            let Some(&marker) = file.get(at + 1) else { break };
            match marker {
                // A fill byte.
                0xff => at += 1,
                // Not a marker, or one without a length.
                0x00..=0xbf | 0xc8 | 0xd0..=0xd9 | 0xf0..=0xfd => at += 2,
                START_OF_SCAN => break,
                _ => {
                    let Some(length) = file.get(at + 2..).and_then(|rest| rest.first_chunk()) else { break };
                    let end = at + 2 + usize::from(u16::from_be_bytes(*length)).max(2);
                    let Some(data) = file.get(at + 4..end) else { break };
                    segments.add(marker, data);
                    at = end;
                }
            }
        }
        segments
    }

    fn add(&mut self, marker: u8, data: &'a [u8]) {
        match marker {
            APP1 => match (data.strip_prefix(EXIF), data.strip_prefix(XMP)) {
                (Some(exif), _) => match &mut self.exif {
                    Some(earlier) => earlier.extend(exif),
                    None => self.exif = Some(data.to_vec()),
                },
                (_, Some(xmp)) => self.xmp = Some(xmp),
                _ => {}
            },
            // Frame headers. DHT and DAC have numbers in the same range.
            0xc0..=0xcf | 0xde if !matches!(marker, 0xc4 | 0xcc) => {
                self.frame = self.frame.or(Some((marker, data)));
            }
            _ => {}
        }
    }

    pub(super) fn orientation(&self) -> Orientation {
        orientation::of_metadata(self.exif.as_deref(), self.xmp)
    }

    /// Checks that the frame is of a type that Pillow and the decoder support.
    ///
    /// # Errors
    /// [`ImageError::Unsupported`], which names the type.
    pub(super) fn check_frame_type(&self) -> Result<(), ImageError> {
        let Some((marker, header)) = self.frame else { return Ok(()) };
        let what = match (marker, header) {
            (0xc3 | 0xcb, _) => "lossless JPEG".to_owned(),
            (0xc5..=0xc7 | 0xcd..=0xcf | 0xde, _) => "hierarchical JPEG".to_owned(),
            (_, [bits @ (2..=7 | 9..=16), ..]) => format!("JPEG with {bits} bits per sample"),
            (_, [_, _, _, _, _, count @ (2 | 5..), components @ ..]) if components.len() == 3 * usize::from(*count) => {
                format!("JPEG with {count} components")
            }
            _ => return Ok(()),
        };
        Err(ImageError::Unsupported { what })
    }
}
