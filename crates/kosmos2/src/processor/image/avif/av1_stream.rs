//! An AV1 stream: how many frames it has, and its first frame, decoded by rav1d.

use re_rav1d::dav1d::{Decoder, Error, Picture, PixelLayout, PlanarImageComponent as Component, Settings};

use super::super::error::ImageError;
use super::super::format::PictureFormat;
use super::super::limits::check_count;
use super::cicp::Cicp;
use super::error::{damaged, unsupported};
use super::sequence_header;

/// Maximum number of frames in a stream. A still picture is one frame; with layers, or hidden frames that it is
/// predicted from, it is a few.
const MAX_FRAMES: u64 = 16;
// Types of open bitstream units (OBUs).
const SEQUENCE_HEADER: u8 = 1;
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;

/// What a stream contains.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contents {
    pub(super) frames: u64,
    /// Whether chroma may have as many samples as luma.
    pub(super) may_have_full_chroma: bool,
}

/// Counts the frames of a stream by its OBU headers.
///
/// # Errors
/// [`ImageError::TooManyParts`].
pub(super) fn count_frames(stream: &[u8]) -> Result<Contents, ImageError> {
    let (mut contents, mut rest) = (Contents { frames: 0, may_have_full_chroma: false }, stream);
    while let Some((obu_type, payload, after)) = split_obu(rest) {
        match obu_type {
            FRAME | FRAME_HEADER => contents.frames += 1,
            // Profile 0 has only 4:2:0 and monochrome.
            SEQUENCE_HEADER => {
                contents.may_have_full_chroma |= payload.first().is_some_and(|byte| byte >> 5 != 0);
            }
            _ => {}
        }
        rest = after;
    }
    check_count(PictureFormat::Avif, "frames in a stream", contents.frames, MAX_FRAMES)?;
    Ok(contents)
}

/// The colour description in the last sequence header before the first frame.
fn read_cicp(stream: &[u8]) -> Option<Cicp> {
    let (mut cicp, mut rest) = (None, stream);
    while let Some((obu_type, payload, after)) = split_obu(rest) {
        match obu_type {
            SEQUENCE_HEADER => cicp = sequence_header::read_cicp(payload),
            FRAME | FRAME_HEADER => break,
            _ => {}
        }
        rest = after;
    }
    cicp
}

/// The type and the payload of the first OBU, and the bytes after it (AV1 specification, 5.3).
fn split_obu(stream: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&header, mut rest) = stream.split_first()?;
    // The extension.
    if header & 4 != 0 {
        rest = rest.get(1..)?;
    }
    let mut length = rest.len();
    // A size in LEB128.
    if header & 2 != 0 {
        let mut number = 0;
        for shift in (0..56).step_by(7) {
            let (&byte, after) = rest.split_first()?;
            number |= u64::from(byte & 0x7f) << shift;
            rest = after;
            if byte & 0x80 == 0 {
                break;
            }
        }
        length = usize::try_from(number).ok()?.min(rest.len());
    }
    let (payload, after) = rest.split_at_checked(length)?;
    Some((header >> 3 & 15, payload, after))
}

/// Chroma subsampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChromaSubsampling {
    /// There is no chroma.
    Monochrome,
    /// 4:2:0: half as many samples horizontally and vertically.
    Yuv420,
    /// 4:2:2: half as many samples horizontally.
    Yuv422,
    /// 4:4:4: no subsampling.
    Yuv444,
}

/// The first frame of a stream.
pub(super) struct Frame {
    picture: Picture,
    pub(super) width: usize,
    pub(super) height: usize,
    /// Bits per sample: 8, 10 or 12.
    pub(super) depth: u32,
    pub(super) subsampling: ChromaSubsampling,
    pub(super) cicp: Cicp,
}

/// Decodes the first frame of a stream, which may have at most `max_pixels` pixels.
pub(super) fn decode(stream: Vec<u8>, max_pixels: u64) -> Result<Frame, ImageError> {
    if stream.is_empty() {
        return Err(damaged("its AV1 stream is empty"));
    }
    count_frames(&stream)?;
    let cicp = read_cicp(&stream).ok_or_else(|| damaged("its AV1 stream has no sequence header"))?;
    let damaged_stream = |error: Error| damaged(format!("its AV1 stream cannot be decoded: {error}"));
    let mut settings = Settings::new();
    // The caller decodes several pictures in parallel, one per thread.
    settings.set_n_threads(1);
    settings.set_max_frame_delay(1);
    settings.set_all_layers(false);
    settings.set_frame_size_limit(u32::try_from(max_pixels).unwrap_or(u32::MAX).max(1));
    let mut decoder = Decoder::with_settings(&settings).map_err(damaged_stream)?;
    match decoder.send_data(stream, None, None, None) {
        Ok(()) | Err(Error::Again) => {}
        Err(error) => return Err(damaged_stream(error)),
    }
    let picture = decoder.get_picture().map_err(|error| match error {
        Error::Again => damaged("its AV1 stream has no frame"),
        error => damaged_stream(error),
    })?;
    let subsampling = match picture.pixel_layout() {
        PixelLayout::I400 => ChromaSubsampling::Monochrome,
        PixelLayout::I420 => ChromaSubsampling::Yuv420,
        PixelLayout::I422 => ChromaSubsampling::Yuv422,
        PixelLayout::I444 => ChromaSubsampling::Yuv444,
    };
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let depth = picture.bit_depth() as u32;
    if !matches!(depth, 8 | 10 | 12) {
        return Err(unsupported(format!("with {depth} bits per sample")));
    }
    Ok(Frame { picture, width, height, depth, subsampling, cicp })
}

impl Frame {
    /// A row of samples of a plane: 0 is Y, 1 is U, 2 is V.
    pub(super) fn row(&self, plane: usize, row: usize) -> Vec<u16> {
        let component = [Component::Y, Component::U, Component::V].into_iter().nth(plane).unwrap_or(Component::Y);
        let width = match (plane, self.subsampling) {
            (0, _) | (_, ChromaSubsampling::Yuv444) => self.width,
            _ => self.width.div_ceil(2),
        };
        let (stride, bytes) = (self.picture.stride(component) as usize, self.picture.plane(component));
        let row = bytes.get(row * stride..).unwrap_or_default();
        if self.depth == 8 {
            row.iter().take(width).map(|byte| u16::from(*byte)).collect()
        } else {
            row.as_chunks::<2>().0.iter().take(width).map(|pair| u16::from_ne_bytes(*pair)).collect()
        }
    }
}
