//! BMP's run-length encoding of 4-bit and 8-bit indices.

use super::super::error::{ImageError, undecodable};
use super::super::format::PictureFormat;
use super::super::limits::DecodeOptions;
use super::header::Bitmap;

/// Codes between two checks of the deadline.
const CODES: usize = 1 << 16;
const END_OF_LINE: u8 = 0;
const END_OF_BITMAP: u8 = 1;
const DELTA: u8 = 2;

/// Decodes one index per pixel, in the file's order of rows.
///
/// Follows Pillow where it differs from Microsoft's documentation: pixels are appended one after the other; a run is
/// truncated at the end of its row; a delta or an end of line fills the pixels that it skips with index 0; and the data
/// must fill every row.
pub(super) fn decode(bitmap: &Bitmap, is_4_bit: bool, options: &DecodeOptions) -> Result<Vec<u8>, ImageError> {
    let width = bitmap.width as usize;
    let size = width * bitmap.height as usize;
    let mut indices: Vec<u8> = Vec::new();
    let (mut at, mut x, mut codes) = (0, 0, 0);
    let pair = |at: usize| bitmap.data.get(at..).and_then(|rest| rest.first_chunk::<2>().copied());
    while indices.len() < size {
        codes += 1;
        if codes % CODES == 0 {
            options.check_deadline()?;
        }
        let Some([count, value]) = pair(at) else { break };
        at += 2;
        match (count, value) {
            (0, END_OF_LINE) => {
                indices.resize(indices.len().next_multiple_of(width), 0);
                x = 0;
            }
            (0, END_OF_BITMAP) => break,
            (0, DELTA) => {
                let Some([right, up]) = pair(at) else { break };
                at += 2;
                let skipped = usize::from(right) + usize::from(up) * width;
                indices.resize((indices.len() + skipped).min(size), 0);
                x = indices.len() % width;
            }
            (0, length) => {
                let count = usize::from(length).min(size - indices.len());
                let stored = if is_4_bit { count.div_ceil(2) } else { count };
                let rest = bitmap.data.get(at..).unwrap_or_default();
                let literal = &rest[..stored.min(rest.len())];
                at += literal.len();
                if is_4_bit {
                    let nibbles = literal.iter().flat_map(|byte| [byte >> 4, byte & 15]);
                    indices.extend(nibbles.take(count));
                } else {
                    indices.extend(literal);
                }
                if literal.len() < stored || indices.len() == size {
                    break;
                }
                x += usize::from(length);
                // Literals are padded to an even offset in the file.
                at += (at + usize::from(bitmap.starts_at_odd_offset)) % 2;
            }
            (count, value) => {
                let count = usize::from(count).min(width.saturating_sub(x));
                let values = if is_4_bit { [value >> 4, value & 15] } else { [value; 2] };
                indices.extend(values.iter().cycle().take(count));
                x += count;
            }
        }
    }
    if indices.len() < size {
        return Err(undecodable(PictureFormat::Bmp, "its pixel data ends early"));
    }
    indices.truncate(size);
    Ok(indices)
}
