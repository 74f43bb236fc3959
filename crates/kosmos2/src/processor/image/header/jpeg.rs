//! JPEG: segments that tell their length, and scans that go on to the next marker.

use super::super::decode::{ImageError, PictureFormat};
use super::super::limits::{MAX_PARTS, MAX_SCANS, check_count};
use super::{Claims, bytes_at, product};

const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;
/// A block of 64 coefficients of two bytes.
const BLOCK: u64 = 128;

/// What a walk over the markers found, up to the end of the picture.
#[derive(Debug, Default)]
struct Walk {
    /// The first frame header: precision, sides, components.
    frame: Option<Frame>,
    scans: u64,
    /// Components of the first scan.
    first_scan: usize,
    segments: u64,
}

#[derive(Debug)]
struct Frame {
    width: u32,
    height: u32,
    is_progressive: bool,
    /// Sampling factors, across and down.
    components: Vec<(u64, u64)>,
}

pub(super) fn claims(file: &[u8]) -> Result<Option<Claims>, ImageError> {
    let walk = walk(file);
    check_count(PictureFormat::Jpeg, "scans", walk.scans, MAX_SCANS)?;
    check_count(PictureFormat::Jpeg, "segments", walk.segments, MAX_PARTS)?;
    Ok(walk.frame.map(|frame| {
        let pixels = product(&[frame.width.into(), frame.height.into()]);
        let colours: u64 = if frame.components.len() == 4 { 4 } else { 3 };
        // Where the picture comes in several scans, all coefficients are kept until the last one is read.
        let in_scans = frame.is_progressive || walk.first_scan < frame.components.len();
        let kept = if in_scans { frame.coefficients() } else { 0 };
        let decoding = kept.saturating_add(product(&[pixels, colours]));
        // Then inks become light, or the picture is turned. Segments that are looked into are kept too.
        let memory = decoding.max(product(&[pixels, colours + 3])).saturating_add(file.len() as u64);
        Claims { width: frame.width, height: frame.height, memory }
    }))
}

impl Frame {
    fn read(marker: u8, segment: &[u8]) -> Option<Self> {
        let side = |at| Some(u32::from(u16::from_be_bytes(bytes_at(segment, at)?)));
        let (height, width) = (side(1)?, side(3)?);
        let components = segment.get(6..)?.chunks_exact(3).take(usize::from(*segment.get(5)?));
        let factors = |component: &[u8]| (u64::from(component[1] >> 4).max(1), u64::from(component[1] & 15).max(1));
        Some(Self { width, height, is_progressive: marker & 3 == 2, components: components.map(factors).collect() })
    }

    /// Bytes of all coefficients, each component filled up to whole units of the coarsest.
    fn coefficients(&self) -> u64 {
        let most = |factor: fn(&(u64, u64)) -> u64| self.components.iter().map(factor).max().unwrap_or(1);
        let units_across = u64::from(self.width).div_ceil(8 * most(|factors| factors.0));
        let units_down = u64::from(self.height).div_ceil(8 * most(|factors| factors.1));
        let blocks = |(across, down): &(u64, u64)| product(&[units_across, *across, units_down, *down, BLOCK]);
        self.components.iter().map(blocks).fold(0, u64::saturating_add)
    }
}

/// How many scans a stream has.
pub(in super::super) fn scans(stream: &[u8]) -> u64 {
    walk(stream).scans
}

/// Goes from marker to marker to the end of the picture.
fn walk(file: &[u8]) -> Walk {
    let mut found = Walk::default();
    let mut at = 2;
    while let Some((marker, behind)) = next_marker(file, at) {
        at = behind;
        match marker {
            END_OF_IMAGE => return found,
            // Alone, without a length: restarts within a scan, and a mark that nobody uses.
            0xd0..=0xd8 | 0x01 => continue,
            _ => {}
        }
        let Some(length) = bytes_at(file, at).map(u16::from_be_bytes) else { return found };
        let end = at + usize::from(length).max(2);
        let segment = file.get(at + 2..end.min(file.len())).unwrap_or_default();
        match marker {
            START_OF_SCAN => {
                if found.scans == 0 {
                    found.first_scan = segment.first().copied().unwrap_or_default().into();
                }
                found.scans += 1;
            }
            // Frame headers, but not the tables that stand among their numbers.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                found.frame = found.frame.or_else(|| Frame::read(marker, segment));
                found.segments += 1;
            }
            _ => found.segments += 1,
        }
        at = end;
    }
    found
}

/// The next marker and the place behind it. A scan's own 0xff is followed by a zero.
fn next_marker(file: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += file.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        match file.get(at + 1)? {
            // Any number of these may stand before a marker.
            0xff => at += 1,
            0 => at += 2,
            marker => return Some((*marker, at + 2)),
        }
    }
}
