//! TIFF: the first image file directory (IFD) describes the image.

use super::super::error::ImageError;
use super::super::limits::DecodeOptions;
use super::super::tiff::{Compression, Layout};
use super::estimate::{Estimate, product};

/// RGB and a rotated copy of it.
const ROTATED: u64 = 3 + 3;
/// Size of an entry in the list of uncompressed strips or tiles.
const LIST_ENTRY: u64 = 16;

pub(super) fn estimate(file: &[u8], options: &DecodeOptions) -> Result<Option<Estimate>, ImageError> {
    let layout = Layout::read(file, options)?;
    let (width, height) = (layout.width, layout.height);
    let bytes_per_pixel = ROTATED.max(layout.pixel_bytes() as u64 + 3);
    let pixels = product(&[width.into(), height.into(), bytes_per_pixel]);
    let decoder = match layout.compression {
        Compression::None => product(&[layout.chunks_in_file(), LIST_ENTRY]),
        // Compressed bytes are copied to reverse their bits, or to add the tables to a JPEG stream.
        _ => file.len() as u64,
    };
    let memory = pixels.saturating_add(layout.chunk_bytes()).saturating_add(decoder);
    Ok(Some(Estimate { width, height, memory }))
}
