//! A pass over all markers of a JPEG stream: its frame header, and how many scans and segments it has.

use super::super::bytes::bytes_at;

const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;

/// What the markers up to the end of the image state.
#[derive(Debug, Default)]
pub(in super::super) struct Markers {
    /// The first frame header.
    pub(in super::super) frame: Option<FrameHeader>,
    pub(in super::super) scans: u64,
    /// Number of components in the first scan.
    pub(in super::super) first_scan_components: usize,
    /// Segments other than scan headers.
    pub(in super::super) segments: u64,
}

/// A frame header (SOF).
#[derive(Debug)]
pub(in super::super) struct FrameHeader {
    pub(in super::super) width: u32,
    pub(in super::super) height: u32,
    pub(in super::super) is_progressive: bool,
    /// Horizontal and vertical sampling factors of each component.
    pub(in super::super) sampling_factors: Vec<(u64, u64)>,
}

impl FrameHeader {
    fn read(marker: u8, segment: &[u8]) -> Option<Self> {
        let side = |at| Some(u32::from(u16::from_be_bytes(bytes_at(segment, at)?)));
        let (height, width) = (side(1)?, side(3)?);
        let components = segment.get(6..)?.chunks_exact(3).take(usize::from(*segment.get(5)?));
        let factors = |component: &[u8]| (u64::from(component[1] >> 4).max(1), u64::from(component[1] & 15).max(1));
        Some(Self {
            width,
            height,
            is_progressive: marker & 3 == 2,
            sampling_factors: components.map(factors).collect(),
        })
    }
}

impl Markers {
    /// Reads the markers of a stream. A segment that the stream ends in is the last one.
    pub(in super::super) fn read(stream: &[u8]) -> Self {
        let mut markers = Self::default();
        let mut at = 2;
        while let Some((marker, end)) = next_marker(stream, at) {
            at = end;
            match marker {
                END_OF_IMAGE => return markers,
                // Markers without a length: RST0 to RST7, SOI and TEM.
                0xd0..=0xd8 | 0x01 => continue,
                _ => {}
            }
            let Some(length) = bytes_at(stream, at).map(u16::from_be_bytes) else { return markers };
            let end = at + usize::from(length).max(2);
            let segment = stream.get(at + 2..end.min(stream.len())).unwrap_or_default();
            match marker {
                START_OF_SCAN => {
                    if markers.scans == 0 {
                        markers.first_scan_components = segment.first().copied().unwrap_or_default().into();
                    }
                    markers.scans += 1;
                }
                // Frame headers. DHT, JPG and DAC have numbers in the same range.
                0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                    markers.frame = markers.frame.or_else(|| FrameHeader::read(marker, segment));
                    markers.segments += 1;
                }
                _ => markers.segments += 1,
            }
            at = end;
        }
        markers
    }
}

/// The next marker and the offset after it. In a scan's data, a zero follows every 0xff that is not a marker.
fn next_marker(stream: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += stream.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        match stream.get(at + 1)? {
            // A fill byte.
            0xff => at += 1,
            0 => at += 2,
            marker => return Some((*marker, at + 2)),
        }
    }
}
