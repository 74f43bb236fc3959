//! Run-length encoded indices of a BMP file.

use super::super::decode::{ImageError, PictureFormat, undecodable};
use super::super::limits::DecodeOptions;
use super::header::Bitmap;

/// Codes between two looks at the deadline.
const CODES: usize = 1 << 16;
const END_OF_LINE: u8 = 0;
const END_OF_BITMAP: u8 = 1;
const DELTA: u8 = 2;

/// One index for each pixel, in the order of the file's rows.
///
/// As in Pillow, indices follow each other: a run that reaches beyond its row is cut, a delta and the end of a line
/// fill what they pass over with the first colour, and the file has to fill every row.
pub(super) fn unpack(bitmap: &Bitmap, of_nibbles: bool, options: &DecodeOptions) -> Result<Vec<u8>, ImageError> {
    let width = bitmap.width as usize;
    let size = width * bitmap.height as usize;
    let mut indices: Vec<u8> = Vec::new();
    let (mut at, mut x, mut codes) = (0, 0, 0);
    let pair = |at: usize| bitmap.data.get(at..).and_then(|rest| rest.first_chunk::<2>().copied());
    while indices.len() < size {
        codes += 1;
        if codes % CODES == 0 {
            options.check_time()?;
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
                let passed = usize::from(right) + usize::from(up) * width;
                indices.resize((indices.len() + passed).min(size), 0);
                x = indices.len() % width;
            }
            (0, length) => {
                let count = usize::from(length).min(size - indices.len());
                let stored = if of_nibbles { count.div_ceil(2) } else { count };
                let rest = bitmap.data.get(at..).unwrap_or_default();
                let literal = &rest[..stored.min(rest.len())];
                at += literal.len();
                if of_nibbles {
                    let nibbles = literal.iter().flat_map(|byte| [byte >> 4, byte & 15]);
                    indices.extend(nibbles.take(count));
                } else {
                    indices.extend(literal);
                }
                if literal.len() < stored || indices.len() == size {
                    break;
                }
                x += usize::from(length);
                // Literals are filled up to an even offset in the file.
                at += (at + usize::from(bitmap.is_odd)) % 2;
            }
            (count, value) => {
                let count = usize::from(count).min(width.saturating_sub(x));
                let values = if of_nibbles { [value >> 4, value & 15] } else { [value; 2] };
                indices.extend(values.iter().cycle().take(count));
                x += count;
            }
        }
    }
    if indices.len() < size {
        return Err(undecodable(PictureFormat::Bmp, "its pixels end early"));
    }
    indices.truncate(size);
    Ok(indices)
}
