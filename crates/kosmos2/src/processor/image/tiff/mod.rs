//! TIFF as Pillow 13 decodes it: the first image of a file.
//!
//! Fields are parsed here, because the result depends on which modes Pillow supports and how it treats invalid files.
//! Compressed chunks are decoded by libraries: LZW by weezl, Deflate by flate2, CCITT by hayro-ccitt, JPEG by mozjpeg.

mod canvas;
mod ccitt;
mod compressed;
mod compression;
mod decompress;
mod directory;
mod error;
mod jpeg;
mod layout;
mod modes;
mod predictor;
mod sample_fields;
mod tags;
mod uncompressed;
mod unpacker;
mod ycbcr;

pub(super) use compression::Compression;
pub(super) use directory::Directory;
pub(super) use layout::Layout;

use super::error::ImageError;
use super::limits::DecodeOptions;
use super::orientation;
use super::picture::Decoded;
use canvas::Canvas;

pub(super) fn decode(file: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let layout = Layout::read(file, options)?;
    let mut canvas = Canvas::new(layout.width as usize, layout.height as usize, layout.mode());
    if layout.compression == Compression::None {
        uncompressed::decode(file, &layout, &mut canvas, options)?;
    } else if layout.is_ycbcr && (layout.compression != Compression::Jpeg || layout.is_planar) {
        compressed::decode_ycbcr(file, &layout, &mut canvas, options)?;
    } else {
        compressed::decode(file, &layout, &mut canvas, options)?;
    }
    options.check_deadline()?;
    let (exif_orientation, xmp) = layout.orientation();
    let orientation = orientation::of_metadata(exif_orientation.map(exif_block).as_deref(), xmp);
    Ok((canvas.into_rgb(&layout)?, orientation))
}

/// An EXIF block with only an orientation.
fn exif_block(orientation: u64) -> Vec<u8> {
    const START: &[u8] = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0";
    // No value above 8 is an orientation.
    [START, &[orientation.min(9) as u8, 0, 0, 0], &[0; 4]].concat()
}
