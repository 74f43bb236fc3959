//! Unpacks one strip or tile: LZW, Deflate, PackBits, CCITT and JPEG, and undoes the predictor.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::ZlibDecoder;
use hayro_ccitt::{DecodeSettings, Decoder, DecoderContext, EncodingMode};
use weezl::{BitOrder, LzwStatus};

use super::super::decode::ImageError;
use super::super::limits::{DecodeOptions, Paced};
use super::jpeg;
use super::layout::{Layout, Packing, damaged, unsupported};

/// How much of a piece a decoder gets at a time.
const PIECE: usize = 64 << 10;

/// The bytes of a piece as they lie in the file.
pub(super) fn packed<'a>(file: &'a [u8], layout: &Layout, index: usize) -> Result<Cow<'a, [u8]>, ImageError> {
    let outside = || damaged("a strip or tile does not lie within it");
    let start = layout.offsets.get(index).and_then(|start| usize::try_from(start).ok()).ok_or_else(outside)?;
    let told = match layout.byte_counts {
        Some(counts) => counts.get(index).and_then(|length| usize::try_from(length).ok()).ok_or_else(outside)?,
        None => 0,
    };
    // Some writers leave the length of a single piece out, or say nothing by a zero.
    let is_untold = layout.byte_counts.is_none() || (told == 0 && layout.is_one_strip());
    let length = if is_untold { file.len().saturating_sub(start) } else { told };
    let end = start.checked_add(length).ok_or_else(outside)?;
    let bytes = file.get(start..end).filter(|bytes| !bytes.is_empty()).ok_or_else(outside)?;
    // JPEG has an order of bits of its own.
    if layout.is_reversed && layout.packing != Packing::Jpeg {
        return Ok(bytes.iter().map(|byte| byte.reverse_bits()).collect::<Vec<_>>().into());
    }
    Ok(bytes.into())
}

/// Unpacks `rows` rows of a piece into `into`, which they fill.
pub(super) fn unpack(
    packed: &[u8],
    layout: &Layout,
    rows: usize,
    into: &mut [u8],
    options: &DecodeOptions,
) -> Result<(), ImageError> {
    let width = layout.grid.width as usize;
    match layout.packing {
        Packing::None => return Err(damaged("its pixels are not packed")),
        Packing::Lzw => lzw(packed, into, options)?,
        Packing::Deflate => {
            let mut decoder = ZlibDecoder::new(Paced::new(packed, PIECE, options.deadline));
            decoder.read_exact(into).map_err(|error| damaged(format!("its packed pixels are damaged: {error}")))?;
        }
        Packing::PackBits => pack_bits(packed, into)?,
        Packing::Huffman { row_end } => modified_huffman(packed, width, row_end, into)?,
        Packing::Group3 { is_two_dimensional } => {
            let encoding = if is_two_dimensional { EncodingMode::Group3_2D } else { EncodingMode::Group3_1D };
            fax(packed, width, rows, encoding, into)?;
        }
        Packing::Group4 => fax(packed, width, rows, EncodingMode::Group4, into)?,
        Packing::Jpeg => return jpeg::decode(packed, layout, rows, into, options),
    }
    if matches!(layout.packing, Packing::Lzw | Packing::Deflate) { add_up(layout, into) } else { swap(layout, into) }
}

fn cut() -> ImageError {
    damaged("its pixels end too early")
}

fn lzw(packed: &[u8], mut into: &mut [u8], options: &DecodeOptions) -> Result<(), ImageError> {
    // Before its sixth version TIFF had another order of bits; such pixels begin with another clear code.
    let is_old = matches!(packed, [0, second, ..] if second & 1 == 1);
    let mut decoder = if is_old {
        weezl::decode::Decoder::new(BitOrder::Lsb, 8)
    } else {
        weezl::decode::Decoder::with_tiff_size_switch(BitOrder::Msb, 8)
    };
    let mut rest = packed;
    while !into.is_empty() {
        options.check_time()?;
        let result = decoder.decode_bytes(&rest[..rest.len().min(PIECE)], into);
        rest = rest.get(result.consumed_in..).unwrap_or_default();
        into = into.get_mut(result.consumed_out..).unwrap_or_default();
        match result.status {
            Ok(LzwStatus::Ok) => {}
            Ok(LzwStatus::Done | LzwStatus::NoProgress) if into.is_empty() => {}
            Ok(LzwStatus::Done | LzwStatus::NoProgress) => return Err(cut()),
            Err(error) => return Err(damaged(format!("its packed pixels are damaged: {error}"))),
        }
    }
    Ok(())
}

fn pack_bits(packed: &[u8], into: &mut [u8]) -> Result<(), ImageError> {
    let (mut from, mut filled) = (packed, 0);
    while filled < into.len() {
        let (&head, rest) = from.split_first().ok_or_else(cut)?;
        from = rest;
        match head {
            128 => {}
            0..128 => {
                let length = (usize::from(head) + 1).min(into.len() - filled);
                let (bytes, rest) = from.split_at_checked(length).ok_or_else(cut)?;
                into[filled..filled + length].copy_from_slice(bytes);
                (from, filled) = (rest, filled + length);
            }
            _ => {
                let (&byte, rest) = from.split_first().ok_or_else(cut)?;
                let length = (257 - usize::from(head)).min(into.len() - filled);
                into[filled..filled + length].fill(byte);
                (from, filled) = (rest, filled + length);
            }
        }
    }
    Ok(())
}

/// Rows of bits, black ones set.
struct Rows<'a> {
    rows: std::slice::ChunksExactMut<'a, u8>,
    width: usize,
    missing: usize,
}

impl<'a> Rows<'a> {
    fn new(into: &'a mut [u8], width: usize) -> Self {
        into.fill(0);
        let rows = into.chunks_exact_mut(width.div_ceil(8).max(1));
        Self { missing: rows.len(), rows, width }
    }
}

impl Decoder for Rows<'_> {
    fn push_row(&mut self, changes: &[u32]) {
        let Some(row) = self.rows.next() else { return };
        self.missing -= 1;
        for change in changes.chunks(2) {
            let start = change.first().map_or(self.width, |&at| at as usize).min(self.width);
            let end = change.get(1).map_or(self.width, |&at| at as usize).min(self.width);
            set_bits(row, start, end);
        }
    }
}

fn set_bits(row: &mut [u8], start: usize, end: usize) {
    if start >= end {
        return;
    }
    let (first, last) = (start / 8, (end - 1) / 8);
    let (head, tail) = (0xff >> (start % 8), !(0x7f >> ((end - 1) % 8)) as u8);
    if first == last {
        row[first] |= head & tail;
    } else {
        row[first] |= head;
        row[first + 1..last].fill(0xff);
        row[last] |= tail;
    }
}

fn settings(width: usize, rows: usize, encoding: EncodingMode) -> DecodeSettings {
    DecodeSettings {
        columns: width as u32,
        rows: rows as u32,
        end_of_block: true,
        end_of_line: false,
        rows_are_byte_aligned: false,
        encoding,
        strict: false,
    }
}

fn fax(packed: &[u8], width: usize, rows: usize, encoding: EncodingMode, into: &mut [u8]) -> Result<(), ImageError> {
    let mut found = Rows::new(into, width);
    let result = hayro_ccitt::decode(packed, &mut found, &mut DecoderContext::new(settings(width, rows, encoding)));
    match result {
        _ if found.missing == 0 => Ok(()),
        Err(error) => Err(damaged(format!("its fax codes are damaged: {error}"))),
        Ok(_) => Err(cut()),
    }
}

/// Each row on its own: none refers to another, and all begin at a whole byte or pair of bytes.
fn modified_huffman(packed: &[u8], width: usize, row_end: usize, into: &mut [u8]) -> Result<(), ImageError> {
    let settings = DecodeSettings { end_of_block: false, ..settings(width, 1, EncodingMode::Group3_1D) };
    let mut context = DecoderContext::new(settings);
    let mut found = Rows::new(into, width);
    let mut at = 0;
    while found.missing > 0 {
        let rest = packed.get(at..).filter(|rest| !rest.is_empty()).ok_or_else(cut)?;
        let read = hayro_ccitt::decode(rest, &mut found, &mut context);
        at += read.map_err(|error| damaged(format!("its fax codes are damaged: {error}")))?;
        at = at.next_multiple_of(row_end);
    }
    Ok(())
}

/// Puts the bytes of samples in the order of this machine's kind, low byte first.
fn swap(layout: &Layout, into: &mut [u8]) -> Result<(), ImageError> {
    if layout.is_big_endian && layout.bits >= 16 {
        into.chunks_exact_mut(layout.bits / 8).for_each(<[u8]>::reverse);
    }
    Ok(())
}

/// Undoes the predictor: samples were stored as differences to their left neighbours.
fn add_up(layout: &Layout, into: &mut [u8]) -> Result<(), ImageError> {
    let step = if layout.is_planar { 1 } else { layout.samples };
    match (layout.predictor, layout.bits) {
        (1, _) => swap(layout, into),
        (2, 8 | 16 | 32) => {
            swap(layout, into)?;
            let bytes = layout.bits / 8;
            for row in into.chunks_exact_mut(layout.row_bytes().max(1)) {
                sum_row(row, step, bytes);
            }
            Ok(())
        }
        (3, 32) if layout.raw.letters.starts_with('F') => {
            for row in into.chunks_exact_mut(layout.row_bytes().max(1)) {
                sum_row(row, step, 1);
                // High bytes of all samples come first, then the next lower ones.
                let (split, samples) = (row.to_vec(), row.len() / 4);
                for (index, sample) in row.chunks_exact_mut(4).enumerate() {
                    (0..4).for_each(|byte| sample[3 - byte] = split[byte * samples + index]);
                }
            }
            Ok(())
        }
        (predictor, bits) => Err(unsupported(format!("with predictor {predictor} of samples of {bits} bits"))),
    }
}

fn sum_row(row: &mut [u8], step: usize, bytes: usize) {
    let stride = step * bytes;
    for at in (stride..row.len()).step_by(bytes) {
        let mut carry = 0;
        for byte in at..(at + bytes).min(row.len()) {
            let sum = u16::from(row[byte]) + u16::from(row[byte - stride]) + carry;
            row[byte] = sum as u8;
            carry = sum >> 8;
        }
    }
}
