//! TIFF: a directory of fields says what the picture is and where its pieces lie.

use super::super::decode::ImageError;
use super::super::limits::DecodeOptions;
use super::super::tiff::{Layout, Packing};
use super::{Claims, product};

/// RGB and a turned copy of it.
const TURNED: u64 = 3 + 3;
/// A strip or tile in the list of those that are not packed.
const PLACE: u64 = 16;

pub(super) fn claims(file: &[u8], options: &DecodeOptions) -> Result<Option<Claims>, ImageError> {
    let layout = Layout::read(file, options)?;
    let (width, height) = (layout.width, layout.height);
    let per_pixel = TURNED.max(layout.pixel_bytes() as u64 + 3);
    let pixels = product(&[width.into(), height.into(), per_pixel]);
    let kept = match layout.packing {
        Packing::None => product(&[layout.pieces_in_file(), PLACE]),
        // Packed bytes may have to be put in order, and a JPEG stream is put together anew.
        _ => file.len() as u64,
    };
    let memory = pixels.saturating_add(layout.piece_bytes()).saturating_add(kept);
    Ok(Some(Claims { width, height, memory }))
}
