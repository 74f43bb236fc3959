//! GIF: a screen, and blocks of which the first picture is the one decoded.

use super::super::decode::{ImageError, PictureFormat};
use super::super::limits::{MAX_FRAMES, MAX_PARTS, check_count};
use super::{Claims, bytes_at, product};

const HEADER: usize = 13;
const PICTURE: u8 = 0x2c;
const PICTURE_HEADER: usize = 10;
const EXTENSION: u8 = 0x21;
const RGBA: u64 = 4;
const RGB: u64 = 3;

pub(super) fn claims(file: &[u8]) -> Result<Option<Claims>, ImageError> {
    let blocks = blocks(file);
    check_count(PictureFormat::Gif, "frames", blocks.pictures, MAX_FRAMES)?;
    check_count(PictureFormat::Gif, "blocks", blocks.extensions, MAX_PARTS)?;
    let side = |at| Some(u32::from(u16::from_le_bytes(bytes_at(file, at)?)));
    let (Some(width), Some(height)) = (side(6), side(8)) else { return Ok(None) };
    let screen = product(&[width.into(), height.into()]);
    // The first picture is decoded on its own and put on the screen; then come RGB and a turned copy of it.
    let memory =
        product(&[screen, RGBA]).saturating_add(product(&[screen.max(blocks.first_picture), RGBA.max(RGB + RGB)]));
    Ok(Some(Claims { width, height, memory }))
}

#[derive(Default)]
struct Blocks {
    pictures: u64,
    extensions: u64,
    /// Its pixels.
    first_picture: u64,
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
                let side = |at| bytes_at(file, at).map_or(0, |side| u64::from(u16::from_le_bytes(side)));
                if found.pictures == 0 {
                    found.first_picture = side(at + 5) * side(at + 7);
                }
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
