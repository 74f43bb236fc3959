//! GIF's LZW compression.

use super::super::error::{ImageError, undecodable};
use super::super::format::PictureFormat;
use super::super::limits::DecodeOptions;
use super::frame::Frame;

/// Maximum size of a code in bits.
const MAX_BITS: u8 = 12;
const MAX_CODES: usize = 1 << MAX_BITS;
/// First row and row step of the four passes of an interlaced frame.
const PASSES: [(usize, usize); 4] = [(0, 8), (4, 8), (2, 4), (1, 2)];

/// Decodes a frame's indices into a canvas of the picture's size.
///
/// Data after the last pixel is ignored. Data that ends early is an error, as in Pillow.
pub(super) fn decode(frame: &Frame, canvas: &mut [u8], options: &DecodeOptions) -> Result<(), ImageError> {
    let damaged = |reason: &str| undecodable(PictureFormat::Gif, reason);
    let [left, top, width, height] = frame.area;
    if width == 0 || height == 0 {
        return Err(damaged("the width or height of its first frame is 0"));
    }
    if frame.min_code_size > MAX_BITS {
        return Err(damaged("its LZW codes are longer than 12 bits"));
    }
    let passes = if frame.is_interlaced { &PASSES[..] } else { &[(0, 1)] };
    let rows = passes.iter().flat_map(|&(first, step)| (first..height).step_by(step));
    let (mut bits, mut table) = (Bits::new(frame.data), Table::new(frame.min_code_size));
    let mut string = PendingIndices::default();
    for row in rows {
        options.check_deadline()?;
        let start = (top + row) * frame.size.0 as usize + left;
        let Some(mut line) = canvas.get_mut(start..).and_then(|line| line.get_mut(..width)) else {
            return Err(damaged("its first frame does not fit on its screen"));
        };
        while !line.is_empty() {
            if string.is_empty() {
                table.next_string(&mut bits, &mut string).map_err(damaged)?;
            }
            let written = string.move_to(line);
            line = &mut line[written..];
        }
    }
    Ok(())
}

/// Codes from data sub-blocks, least significant bit first.
struct Bits<'a> {
    /// What follows the current sub-block.
    rest: &'a [u8],
    sub_block: &'a [u8],
    buffer: u32,
    /// Bits in the buffer.
    count: u8,
}

impl<'a> Bits<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self { rest: data, sub_block: &[], buffer: 0, count: 0 }
    }

    fn take(&mut self, bits: u8) -> Option<usize> {
        while self.count < bits {
            let Some((&byte, sub_block)) = self.sub_block.split_first() else {
                let (&length, rest) = self.rest.split_first()?;
                (self.sub_block, self.rest) = rest.split_at_checked(length.into())?;
                continue;
            };
            self.sub_block = sub_block;
            self.buffer |= u32::from(byte) << self.count;
            self.count += 8;
        }
        let code = self.buffer & ((1 << bits) - 1);
        self.buffer >>= bits;
        self.count -= bits;
        Some(code as usize)
    }
}

/// Indices that are decoded but not yet written, in reverse order.
#[derive(Default)]
struct PendingIndices(Vec<u8>);

impl PendingIndices {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn move_to(&mut self, line: &mut [u8]) -> usize {
        let count = line.len().min(self.0.len());
        let from = self.0.len() - count;
        for (to, index) in line.iter_mut().zip(self.0.drain(from..).rev()) {
            *to = index;
        }
        count
    }
}

/// The string table: each entry is a shorter string, its prefix, and one more index.
struct Table {
    /// Bits of a code after a clear code.
    first_bits: u8,
    /// Bits of the next code.
    bits: u8,
    /// The clear code. The end code follows it, and then the codes of strings.
    clear: usize,
    /// The code of the next new string.
    next: usize,
    prefixes: Vec<u16>,
    last_indices: Vec<u8>,
    /// The previous code and the first index of its string; `None` after a clear code.
    previous: Option<(usize, u8)>,
}

impl Table {
    fn new(min_code_size: u8) -> Self {
        let clear = 1 << min_code_size;
        Self {
            first_bits: min_code_size + 1,
            bits: min_code_size + 1,
            clear,
            next: clear + 2,
            prefixes: vec![0; MAX_CODES],
            last_indices: vec![0; MAX_CODES],
            previous: None,
        }
    }

    /// Reads codes up to the next one that is a string, and appends it in reverse order.
    fn next_string(&mut self, bits: &mut Bits, string: &mut PendingIndices) -> Result<(), &'static str> {
        const EARLY: &str = "its pixel data ends early";
        const INVALID: &str = "it contains an invalid LZW code";
        loop {
            let code = bits.take(self.bits).ok_or(EARLY)?;
            if code == self.clear {
                (self.bits, self.next, self.previous) = (self.first_bits, self.clear + 2, None);
                continue;
            }
            if code == self.clear + 1 {
                return Err(EARLY);
            }
            let Some((previous, first_of_previous)) = self.previous else {
                if code > self.clear {
                    return Err(INVALID);
                }
                self.previous = Some((code, code as u8));
                string.0.push(code as u8);
                return Ok(());
            };
            if code > self.next {
                return Err(INVALID);
            }
            // The code that is about to be added is the previous string followed by its own first index.
            let mut link = code;
            if code == self.next {
                string.0.push(first_of_previous);
                link = previous;
            }
            while link >= self.clear {
                let (Some(&prefix), Some(&last)) = (self.prefixes.get(link), self.last_indices.get(link)) else {
                    return Err(INVALID);
                };
                if string.0.len() >= MAX_CODES {
                    return Err(INVALID);
                }
                string.0.push(last);
                link = prefix.into();
            }
            let first = link as u8;
            string.0.push(first);
            self.add(previous, first);
            self.previous = Some((code, first));
            return Ok(());
        }
    }

    fn add(&mut self, previous: usize, first: u8) {
        let (Some(prefix), Some(last)) = (self.prefixes.get_mut(self.next), self.last_indices.get_mut(self.next))
        else {
            return;
        };
        (*prefix, *last) = (previous as u16, first);
        self.next += 1;
        if self.next == 1 << self.bits && self.bits < MAX_BITS {
            self.bits += 1;
        }
    }
}
