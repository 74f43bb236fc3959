//! The colour description in the sequence header of an AV1 stream (AV1 specification, 5.5).
//!
//! The decoder parses it too, but its enums cannot represent reserved values.

use super::cicp::Cicp;

/// The code point of colours that are not described.
const UNSPECIFIED: u16 = 2;
/// With this matrix, and the primaries and transfer function of sRGB, the planes are RGB in full range.
const IDENTITY: u16 = 0;
const BT709: u16 = 1;
const SRGB: u16 = 13;

/// Reads a sequence header OBU; `None` if it is incomplete.
pub(super) fn read_cicp(header: &[u8]) -> Option<Cicp> {
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
    // use_128x128_superblock, enable_filter_intra, enable_intra_edge_filter.
    bits.skip(3)?;
    if !is_reduced {
        inter_tools(&mut bits)?;
    }
    // enable_superres, enable_cdef, enable_restoration.
    bits.skip(3)?;
    color_config(&mut bits, profile)
}

/// Timing info, decoder model info and operating points.
fn operating_points(bits: &mut Bits<'_>) -> Option<()> {
    let mut delay_bits = None;
    if bits.flag()? {
        bits.skip(32 + 32)?;
        if bits.flag()? {
            bits.skip_uvlc()?;
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

/// The flags from enable_interintra_compound to order_hint_bits.
fn inter_tools(bits: &mut Bits<'_>) -> Option<()> {
    // enable_interintra_compound, enable_masked_compound, enable_warped_motion, enable_dual_filter.
    bits.skip(4)?;
    let enable_order_hint = bits.flag()?;
    if enable_order_hint {
        bits.skip(2)?;
    }
    // seq_choose_screen_content_tools, seq_force_screen_content_tools.
    if bits.flag()? || bits.flag()? {
        // seq_choose_integer_mv, seq_force_integer_mv.
        if !bits.flag()? {
            bits.skip(1)?;
        }
    }
    if enable_order_hint {
        bits.skip(3)?;
    }
    Some(())
}

/// `color_config`, up to color_range.
fn color_config(bits: &mut Bits<'_>, profile: u32) -> Option<Cicp> {
    let is_high_bitdepth = bits.flag()?;
    if profile == 2 && is_high_bitdepth {
        bits.skip(1)?;
    }
    let is_monochrome = profile != 1 && bits.flag()?;
    let mut code_points = [UNSPECIFIED; 3];
    if bits.flag()? {
        for code_point in &mut code_points {
            *code_point = u16::try_from(bits.number(8)?).ok()?;
        }
    }
    let [primaries, transfer, matrix] = code_points;
    let is_full_range = match !is_monochrome && [primaries, transfer, matrix] == [BT709, SRGB, IDENTITY] {
        true => true,
        false => bits.flag()?,
    };
    Some(Cicp { primaries, matrix, is_full_range })
}

/// Reads bits, most significant first.
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

    /// Skips a `uvlc()` number, which has as many bits as there are zeros before it.
    fn skip_uvlc(&mut self) -> Option<()> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
        }
        if zeros < 32 { self.skip(zeros) } else { Some(()) }
    }
}
