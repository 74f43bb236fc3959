//! GIF: a screen, which the first picture may go beyond, and blocks.

use super::super::decode::{ImageError, PictureFormat};
use super::super::gif::Frame;
use super::super::limits::{MAX_FRAMES, MAX_PARTS, check_count};
use super::{Claims, product};

const HEADER: usize = 13;
const PICTURE: u8 = 0x2c;
const PICTURE_HEADER: usize = 10;
const EXTENSION: u8 = 0x21;
/// An index and RGB.
const BYTES_PER_PIXEL: u64 = 1 + 3;

pub(super) fn claims(file: &[u8]) -> Result<Option<Claims>, ImageError> {
    let blocks = blocks(file);
    check_count(PictureFormat::Gif, "frames", blocks.pictures, MAX_FRAMES)?;
    check_count(PictureFormat::Gif, "blocks", blocks.extensions, MAX_PARTS)?;
    let (width, height) = Frame::find(file)?.size;
    let memory = product(&[width.into(), height.into(), BYTES_PER_PIXEL]);
    Ok(Some(Claims { width, height, memory }))
}

#[derive(Default)]
struct Blocks {
    pictures: u64,
    extensions: u64,
}

fn blocks(file: &[u8]) -> Blocks {
    let mut found = Blocks::default();
    let mut at = HEADER + table(file.get(10).copied().unwrap_or_default());
    loop {
        match file.get(at) {
            Some(&EXTENSION) => {
                found.extensions += 1;
                at += 2;
            }
            Some(&PICTURE) => {
                found.pictures += 1;
                // The table of colours, and one byte for the width of the codes.
                at += PICTURE_HEADER + table(file.get(at + 9).copied().unwrap_or_default()) + 1;
            }
            // Between blocks, decoders pass over zeros.
            Some(0) => {
                at += 1;
                continue;
            }
            _ => return found,
        }
        at = behind_data(file, at);
    }
}

/// Bytes of the colour table that a byte of flags announces.
fn table(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// Data come in pieces of at most 255 bytes; one of none ends them.
fn behind_data(file: &[u8], mut at: usize) -> usize {
    while let Some(&length) = file.get(at) {
        at += 1 + usize::from(length);
        if length == 0 {
            break;
        }
    }
    at
}
