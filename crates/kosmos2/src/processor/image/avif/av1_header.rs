//! The colours in the sequence header of an AV1 stream (AV1 specification, 5.5). The decoder knows them too, but has no
//! word for numbers that are reserved.

use super::container::Colours;

/// What the specification takes where a header names no colours.
const UNSPECIFIED: u16 = 2;
/// Identity, with which a picture in sRGB says that its planes are red, green and blue.
const IDENTITY: u16 = 0;
const BT709: u16 = 1;
const SRGB: u16 = 13;

/// Reads a sequence header; `None` if it ends too early.
pub(super) fn colours(header: &[u8]) -> Option<Colours> {
    let mut bits = Bits { bytes: header, at: 0 };
    let profile = bits.number(3)?;
    bits.skip(1)?;
    let is_reduced = bits.flag()?;
    if is_reduced {
        bits.skip(5)?;
    } else {
        operating_points(&mut bits)?;
    }
    let (width_bits, height_bits) = (bits.number(4)? + 1, bits.number(4)? + 1);
    bits.skip(width_bits + height_bits)?;
    if !is_reduced && bits.flag()? {
        bits.skip(4 + 3)?;
    }
    // Superblocks of 128, filter of intra prediction, filter of its edges.
    bits.skip(3)?;
    if !is_reduced {
        prediction_between_frames(&mut bits)?;
    }
    // Super-resolution, directional enhancement, restoration.
    bits.skip(3)?;
    color_config(&mut bits, profile)
}

fn operating_points(bits: &mut Bits<'_>) -> Option<()> {
    let mut delay_bits = None;
    if bits.flag()? {
        bits.skip(32 + 32)?;
        if bits.flag()? {
            bits.skip_variable()?;
        }
        if bits.flag()? {
            delay_bits = Some(bits.number(5)? + 1);
            bits.skip(32 + 5 + 5)?;
        }
    }
    let has_display_delay = bits.flag()?;
    for _ in 0..=bits.number(5)? {
        bits.skip(12)?;
        if bits.number(5)? > 7 {
            bits.skip(1)?;
        }
        if let Some(delay_bits) = delay_bits
            && bits.flag()?
        {
            bits.skip(2 * delay_bits + 1)?;
        }
        if has_display_delay && bits.flag()? {
            bits.skip(4)?;
        }
    }
    Some(())
}

fn prediction_between_frames(bits: &mut Bits<'_>) -> Option<()> {
    // Compounds of inter and intra, masked compounds, warped motion, two filters.
    bits.skip(4)?;
    let has_order = bits.flag()?;
    if has_order {
        bits.skip(2)?;
    }
    // Tools for screen content: chosen frame by frame, or here once for all.
    if bits.flag()? || bits.flag()? {
        // The same for motion in whole pixels.
        if !bits.flag()? {
            bits.skip(1)?;
        }
    }
    if has_order {
        bits.skip(3)?;
    }
    Some(())
}

fn color_config(bits: &mut Bits<'_>, profile: u32) -> Option<Colours> {
    let is_deep = bits.flag()?;
    if profile == 2 && is_deep {
        bits.skip(1)?;
    }
    let is_grey = profile != 1 && bits.flag()?;
    let mut named = [UNSPECIFIED; 3];
    if bits.flag()? {
        for number in &mut named {
            *number = u16::try_from(bits.number(8)?).ok()?;
        }
    }
    let [primaries, transfer, matrix] = named;
    let is_full_range = match !is_grey && [primaries, transfer, matrix] == [BT709, SRGB, IDENTITY] {
        true => true,
        false => bits.flag()?,
    };
    Some(Colours { primaries, matrix, is_full_range })
}

/// Bits, the most significant of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn flag(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// A number of at most 32 bits.
    fn number(&mut self, bits: u32) -> Option<u32> {
        (0..bits).try_fold(0, |number, _| Some(number << 1 | u32::from(self.flag()?)))
    }

    fn skip(&mut self, bits: u32) -> Option<()> {
        self.at = self.at.checked_add(bits as usize)?;
        (self.at <= self.bytes.len() * 8).then_some(())
    }

    /// A number of as many bits as zeros stand before it.
    fn skip_variable(&mut self) -> Option<()> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
        }
        if zeros < 32 { self.skip(zeros) } else { Some(()) }
    }
}
