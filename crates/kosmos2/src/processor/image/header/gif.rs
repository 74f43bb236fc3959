//! GIF: the logical screen, which the first frame may exceed, and the number of frames and blocks.

use super::super::error::ImageError;
use super::super::format::PictureFormat;
use super::super::gif::Frame;
use super::super::limits::{MAX_FRAMES, MAX_PARTS, check_count};
use super::estimate::{Estimate, product};

const HEADER: usize = 13;
const IMAGE_DESCRIPTOR: u8 = 0x2c;
const IMAGE_DESCRIPTOR_SIZE: usize = 10;
const EXTENSION: u8 = 0x21;
/// An index and RGB.
const BYTES_PER_PIXEL: u64 = 1 + 3;

pub(super) fn estimate(file: &[u8]) -> Result<Option<Estimate>, ImageError> {
    let blocks = count_blocks(file);
    check_count(PictureFormat::Gif, "frames", blocks.frames, MAX_FRAMES)?;
    check_count(PictureFormat::Gif, "blocks", blocks.extensions, MAX_PARTS)?;
    let (width, height) = Frame::read(file)?.size;
    let memory = product(&[width.into(), height.into(), BYTES_PER_PIXEL]);
    Ok(Some(Estimate { width, height, memory }))
}

#[derive(Default)]
struct Blocks {
    frames: u64,
    extensions: u64,
}

fn count_blocks(file: &[u8]) -> Blocks {
    let mut blocks = Blocks::default();
    let mut at = HEADER + colour_table_size(file.get(10).copied().unwrap_or_default());
    loop {
        match file.get(at) {
            Some(&EXTENSION) => {
                blocks.extensions += 1;
                at += 2;
            }
            Some(&IMAGE_DESCRIPTOR) => {
                blocks.frames += 1;
                // The local colour table, and a byte for the LZW minimum code size.
                at += IMAGE_DESCRIPTOR_SIZE + colour_table_size(file.get(at + 9).copied().unwrap_or_default()) + 1;
            }
            // Decoders skip zeros between blocks.
            Some(0) => {
                at += 1;
                continue;
            }
            _ => return blocks,
        }
        at = end_of_sub_blocks(file, at);
    }
}

/// Size of the colour table that the flags announce, in bytes.
fn colour_table_size(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// The offset after a series of data sub-blocks, of at most 255 bytes each; an empty one ends the series.
fn end_of_sub_blocks(file: &[u8], mut at: usize) -> usize {
    while let Some(&length) = file.get(at) {
        at += 1 + usize::from(length);
        if length == 0 {
            break;
        }
    }
    at
}
