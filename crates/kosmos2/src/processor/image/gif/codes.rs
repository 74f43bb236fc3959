//! GIF's packing (LZW): codes of growing length for growing strings of indices.

use super::super::decode::{ImageError, PictureFormat, undecodable};
use super::super::limits::DecodeOptions;
use super::frame::Frame;

/// Codes have at most twelve bits.
const MOST_BITS: u8 = 12;
const MOST_CODES: usize = 1 << MOST_BITS;
/// First rows and steps of the four passes of an interlaced frame.
const PASSES: [(usize, usize); 4] = [(0, 8), (4, 8), (2, 4), (1, 2)];

/// Writes a frame's indices to their place on a canvas of its size.
///
/// Data behind the last pixel do not count; where there are too few, there is no picture.
pub(super) fn unpack(frame: &Frame, canvas: &mut [u8], options: &DecodeOptions) -> Result<(), ImageError> {
    let broken = |fault: &str| undecodable(PictureFormat::Gif, fault);
    let [left, top, width, height] = frame.area;
    if width == 0 || height == 0 {
        return Err(broken("its first frame has no pixels"));
    }
    if frame.code_bits > MOST_BITS {
        return Err(broken("its codes are longer than twelve bits"));
    }
    let passes = if frame.is_interlaced { &PASSES[..] } else { &[(0, 1)] };
    let rows = passes.iter().flat_map(|&(first, step)| (first..height).step_by(step));
    let (mut bits, mut table) = (Bits::new(frame.data), Table::new(frame.code_bits));
    let mut string = Strings::default();
    for row in rows {
        options.check_time()?;
        let start = (top + row) * frame.size.0 as usize + left;
        let Some(mut line) = canvas.get_mut(start..).and_then(|line| line.get_mut(..width)) else {
            return Err(broken("its first frame does not fit its size"));
        };
        while !line.is_empty() {
            if string.is_empty() {
                table.next_string(&mut bits, &mut string).map_err(broken)?;
            }
            let written = string.move_to(line);
            line = &mut line[written..];
        }
    }
    Ok(())
}

/// Bits of data blocks, from the lowest of each byte on.
struct Bits<'a> {
    /// What follows the current block.
    rest: &'a [u8],
    block: &'a [u8],
    held: u32,
    count: u8,
}

impl<'a> Bits<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self { rest: data, block: &[], held: 0, count: 0 }
    }

    fn take(&mut self, bits: u8) -> Option<usize> {
        while self.count < bits {
            let Some((&byte, block)) = self.block.split_first() else {
                let (&length, rest) = self.rest.split_first()?;
                (self.block, self.rest) = rest.split_at_checked(length.into())?;
                continue;
            };
            self.block = block;
            self.held |= u32::from(byte) << self.count;
            self.count += 8;
        }
        let code = self.held & ((1 << bits) - 1);
        self.held >>= bits;
        self.count -= bits;
        Some(code as usize)
    }
}

/// Indices that are unpacked but not yet written, the next one last.
#[derive(Default)]
struct Strings(Vec<u8>);

impl Strings {
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

/// The strings that codes stand for: each a shorter one and an index behind it.
struct Table {
    first_bits: u8,
    bits: u8,
    /// The code that empties the table; the next one ends the data; behind it stand strings.
    clear: usize,
    next: usize,
    prefixes: Vec<u16>,
    last_indices: Vec<u8>,
    /// The code before, and the first index of its string; `None` behind a clear code.
    before: Option<(usize, u8)>,
}

impl Table {
    fn new(code_bits: u8) -> Self {
        let clear = 1 << code_bits;
        Self {
            first_bits: code_bits + 1,
            bits: code_bits + 1,
            clear,
            next: clear + 2,
            prefixes: vec![0; MOST_CODES],
            last_indices: vec![0; MOST_CODES],
            before: None,
        }
    }

    /// Reads codes up to one that stands for a string.
    fn next_string(&mut self, bits: &mut Bits, string: &mut Strings) -> Result<(), &'static str> {
        const EARLY: &str = "its pixels end early";
        const UNKNOWN: &str = "its codes stand for nothing";
        loop {
            let code = bits.take(self.bits).ok_or(EARLY)?;
            if code == self.clear {
                (self.bits, self.next, self.before) = (self.first_bits, self.clear + 2, None);
                continue;
            }
            if code == self.clear + 1 {
                return Err(EARLY);
            }
            let Some((before, first_before)) = self.before else {
                if code > self.clear {
                    return Err(UNKNOWN);
                }
                self.before = Some((code, code as u8));
                string.0.push(code as u8);
                return Ok(());
            };
            if code > self.next {
                return Err(UNKNOWN);
            }
            // The next code stands for the string before and its first index once more.
            let mut link = code;
            if code == self.next {
                string.0.push(first_before);
                link = before;
            }
            while link >= self.clear {
                let (Some(&prefix), Some(&last)) = (self.prefixes.get(link), self.last_indices.get(link)) else {
                    return Err(UNKNOWN);
                };
                if string.0.len() >= MOST_CODES {
                    return Err(UNKNOWN);
                }
                string.0.push(last);
                link = prefix.into();
            }
            let first = link as u8;
            string.0.push(first);
            self.add(before, first);
            self.before = Some((code, first));
            return Ok(());
        }
    }

    fn add(&mut self, before: usize, first: u8) {
        let (Some(prefix), Some(last)) = (self.prefixes.get_mut(self.next), self.last_indices.get_mut(self.next))
        else {
            return;
        };
        (*prefix, *last) = (before as u16, first);
        self.next += 1;
        if self.next == 1 << self.bits && self.bits < MOST_BITS {
            self.bits += 1;
        }
    }
}
