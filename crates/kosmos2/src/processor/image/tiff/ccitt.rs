//! CCITT fax compression: modified Huffman, Group 3 and Group 4.

use hayro_ccitt::{DecodeSettings, Decoder, DecoderContext, EncodingMode};

use super::super::error::ImageError;
use super::error::{damaged, ends_early};

/// Receives decoded rows and writes them as bits, set for black.
struct BitRows<'a> {
    rows: std::slice::ChunksExactMut<'a, u8>,
    width: usize,
    missing: usize,
}

impl<'a> BitRows<'a> {
    fn new(output: &'a mut [u8], width: usize) -> Self {
        output.fill(0);
        let rows = output.chunks_exact_mut(width.div_ceil(8).max(1));
        Self { missing: rows.len(), rows, width }
    }
}

impl Decoder for BitRows<'_> {
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

/// Decodes Group 3 or Group 4 to `rows` rows, which fill `output`.
pub(super) fn decode(
    compressed: &[u8],
    width: usize,
    rows: usize,
    encoding: EncodingMode,
    output: &mut [u8],
) -> Result<(), ImageError> {
    let mut bit_rows = BitRows::new(output, width);
    let mut context = DecoderContext::new(settings(width, rows, encoding));
    let result = hayro_ccitt::decode(compressed, &mut bit_rows, &mut context);
    match result {
        _ if bit_rows.missing == 0 => Ok(()),
        Err(error) => Err(damaged(format!("its CCITT data is damaged: {error}"))),
        Ok(_) => Err(ends_early()),
    }
}

/// Decodes modified Huffman, in which rows are independent of each other and each starts at a multiple of
/// `row_alignment` bytes. The rows fill `output`.
pub(super) fn modified_huffman(
    compressed: &[u8],
    width: usize,
    row_alignment: usize,
    output: &mut [u8],
) -> Result<(), ImageError> {
    let settings = DecodeSettings { end_of_block: false, ..settings(width, 1, EncodingMode::Group3_1D) };
    let mut context = DecoderContext::new(settings);
    let mut bit_rows = BitRows::new(output, width);
    let mut at = 0;
    while bit_rows.missing > 0 {
        let rest = compressed.get(at..).filter(|rest| !rest.is_empty()).ok_or_else(ends_early)?;
        let read = hayro_ccitt::decode(rest, &mut bit_rows, &mut context);
        at += read.map_err(|error| damaged(format!("its CCITT data is damaged: {error}")))?;
        at = at.next_multiple_of(row_alignment);
    }
    Ok(())
}
