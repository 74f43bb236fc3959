//! Decompresses one chunk: LZW, Deflate, PackBits, CCITT and JPEG; and undoes the predictor.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::ZlibDecoder;
use hayro_ccitt::EncodingMode;
use weezl::{BitOrder, LzwStatus};

use super::super::deadline_reader::DeadlineReader;
use super::super::error::ImageError;
use super::super::limits::DecodeOptions;
use super::compression::Compression;
use super::error::{damaged, ends_early};
use super::layout::Layout;
use super::{ccitt, jpeg, predictor};

/// Bytes that a decoder reads between two checks of the deadline.
const READ_SIZE: usize = 64 << 10;

/// The compressed bytes of a chunk.
pub(super) fn compressed<'a>(file: &'a [u8], layout: &Layout, index: usize) -> Result<Cow<'a, [u8]>, ImageError> {
    let out_of_bounds = || damaged("a strip or tile extends beyond its end");
    let start = layout.offsets.get(index).and_then(|start| usize::try_from(start).ok()).ok_or_else(out_of_bounds)?;
    let stated = match layout.byte_counts {
        Some(counts) => counts.get(index).and_then(|length| usize::try_from(length).ok()).ok_or_else(out_of_bounds)?,
        None => 0,
    };
    // Some writers omit the byte count of a single strip, or write 0. Like in libtiff, such a strip ends with the file.
    let is_unknown = layout.byte_counts.is_none() || (stated == 0 && layout.is_single_strip());
    let length = if is_unknown { file.len().saturating_sub(start) } else { stated };
    let end = start.checked_add(length).ok_or_else(out_of_bounds)?;
    let bytes = file.get(start..end).filter(|bytes| !bytes.is_empty()).ok_or_else(out_of_bounds)?;
    // The fill order does not apply to JPEG.
    if layout.is_bit_reversed && layout.compression != Compression::Jpeg {
        return Ok(bytes.iter().map(|byte| byte.reverse_bits()).collect::<Vec<_>>().into());
    }
    Ok(bytes.into())
}

/// Decompresses `rows` rows of a chunk into `output`, which they fill.
pub(super) fn decompress(
    compressed: &[u8],
    layout: &Layout,
    rows: usize,
    output: &mut [u8],
    options: &DecodeOptions,
) -> Result<(), ImageError> {
    let width = layout.grid.width as usize;
    match layout.compression {
        Compression::None => return Err(damaged("its pixels are not compressed")),
        Compression::Lzw => lzw(compressed, output, options)?,
        Compression::Deflate => {
            let mut decoder = ZlibDecoder::new(DeadlineReader::new(compressed, READ_SIZE, options.deadline));
            decoder.read_exact(output).map_err(damaged_data)?;
        }
        Compression::PackBits => pack_bits(compressed, output)?,
        Compression::ModifiedHuffman { row_alignment } => {
            ccitt::modified_huffman(compressed, width, row_alignment, output)?;
        }
        Compression::Group3 { is_two_dimensional } => {
            let encoding = if is_two_dimensional { EncodingMode::Group3_2D } else { EncodingMode::Group3_1D };
            ccitt::decode(compressed, width, rows, encoding, output)?;
        }
        Compression::Group4 => ccitt::decode(compressed, width, rows, EncodingMode::Group4, output)?,
        Compression::Jpeg => return jpeg::decode(compressed, layout, rows, output, options),
    }
    // As in libtiff, other schemes ignore the predictor.
    if matches!(layout.compression, Compression::Lzw | Compression::Deflate) {
        predictor::undo(layout, output)
    } else {
        predictor::to_little_endian(layout, output);
        Ok(())
    }
}

fn damaged_data(error: impl std::fmt::Display) -> ImageError {
    damaged(format!("its compressed pixel data is damaged: {error}"))
}

fn lzw(compressed: &[u8], mut output: &mut [u8], options: &DecodeOptions) -> Result<(), ImageError> {
    // LZW of TIFF before version 6.0 has the least significant bit first. libtiff detects it by its first clear code.
    let is_old = matches!(compressed, [0, second, ..] if second & 1 == 1);
    let mut decoder = if is_old {
        weezl::decode::Decoder::new(BitOrder::Lsb, 8)
    } else {
        weezl::decode::Decoder::with_tiff_size_switch(BitOrder::Msb, 8)
    };
    let mut rest = compressed;
    while !output.is_empty() {
        options.check_deadline()?;
        let result = decoder.decode_bytes(&rest[..rest.len().min(READ_SIZE)], output);
        rest = rest.get(result.consumed_in..).unwrap_or_default();
        output = output.get_mut(result.consumed_out..).unwrap_or_default();
        match result.status {
            Ok(LzwStatus::Ok) => {}
            Ok(LzwStatus::Done | LzwStatus::NoProgress) if output.is_empty() => {}
            Ok(LzwStatus::Done | LzwStatus::NoProgress) => return Err(ends_early()),
            Err(error) => return Err(damaged_data(error)),
        }
    }
    Ok(())
}

/// PackBits (TIFF 6.0, section 9).
fn pack_bits(compressed: &[u8], output: &mut [u8]) -> Result<(), ImageError> {
    let (mut input, mut filled) = (compressed, 0);
    while filled < output.len() {
        let (&head, rest) = input.split_first().ok_or_else(ends_early)?;
        input = rest;
        match head {
            128 => {}
            0..128 => {
                let length = (usize::from(head) + 1).min(output.len() - filled);
                let (bytes, rest) = input.split_at_checked(length).ok_or_else(ends_early)?;
                output[filled..filled + length].copy_from_slice(bytes);
                (input, filled) = (rest, filled + length);
            }
            _ => {
                let (&byte, rest) = input.split_first().ok_or_else(ends_early)?;
                let length = (257 - usize::from(head)).min(output.len() - filled);
                output[filled..filled + length].fill(byte);
                (input, filled) = (rest, filled + length);
            }
        }
    }
    Ok(())
}
