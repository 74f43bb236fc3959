//! One AV1 stream: what it will cost, and its first picture, decoded by rav1d.

use re_rav1d::dav1d::{Decoder, Error, Picture, PixelLayout, PlanarImageComponent as Component, Settings};

use super::super::decode::{ImageError, PictureFormat};
use super::super::limits::check_count;
use super::av1_header;
use super::container::Colours;
use super::{damaged, unsupported};

/// Most frames of a stream. A still picture is one; its layers, and what they are predicted from, are a few.
const MAX_FRAMES: u64 = 16;
const SEQUENCE_HEADER: u8 = 1;
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;

/// What a walk over a stream's units found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    pub(super) frames: u64,
    /// Whether chroma may be as large as luma.
    pub(super) is_full_chroma: bool,
}

/// Goes over the units of a stream, which tell their length.
pub(super) fn cost(stream: &[u8]) -> Result<Cost, ImageError> {
    let (mut found, mut rest) = (Cost { frames: 0, is_full_chroma: false }, stream);
    while let Some((kind, body, behind)) = unit(rest) {
        match kind {
            FRAME | FRAME_HEADER => found.frames += 1,
            // Profile 0 has half the chroma or none.
            SEQUENCE_HEADER => found.is_full_chroma |= body.first().is_some_and(|byte| byte >> 5 != 0),
            _ => {}
        }
        rest = behind;
    }
    check_count(PictureFormat::Avif, "frames in a stream", found.frames, MAX_FRAMES)?;
    Ok(found)
}

/// The colours that a stream names: those of the last sequence header before the first picture.
fn colours(stream: &[u8]) -> Option<Colours> {
    let (mut found, mut rest) = (None, stream);
    while let Some((kind, body, behind)) = unit(rest) {
        match kind {
            SEQUENCE_HEADER => found = av1_header::colours(body),
            FRAME | FRAME_HEADER => break,
            _ => {}
        }
        rest = behind;
    }
    found
}

/// The kind of the first unit, what it holds, and what stands behind it.
fn unit(stream: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&head, mut rest) = stream.split_first()?;
    if head & 4 != 0 {
        rest = rest.get(1..)?;
    }
    let mut length = rest.len();
    if head & 2 != 0 {
        let mut number = 0;
        for shift in (0..56).step_by(7) {
            let (&byte, behind) = rest.split_first()?;
            number |= u64::from(byte & 0x7f) << shift;
            rest = behind;
            if byte & 0x80 == 0 {
                break;
            }
        }
        length = usize::try_from(number).ok()?.min(rest.len());
    }
    let (body, behind) = rest.split_at_checked(length)?;
    Some((head >> 3 & 15, body, behind))
}

/// How chroma is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sampling {
    None,
    /// Half as many samples across and down.
    Quarter,
    /// Half as many across.
    Half,
    Full,
}

/// The first picture of a stream.
pub(super) struct Frame {
    picture: Picture,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) depth: u32,
    pub(super) sampling: Sampling,
    pub(super) colours: Colours,
}

/// Decodes the first picture of a stream, of at most so many pixels.
pub(super) fn decode(stream: Vec<u8>, pixels: u64) -> Result<Frame, ImageError> {
    if stream.is_empty() {
        return Err(damaged("its AV1 stream is empty"));
    }
    cost(&stream)?;
    let colours = colours(&stream).ok_or_else(|| damaged("its AV1 stream has no sequence header"))?;
    let broken = |error: Error| damaged(format!("its AV1 stream cannot be decoded: {error}"));
    let mut settings = Settings::new();
    // On this thread alone, since pictures are decoded side by side.
    settings.set_n_threads(1);
    settings.set_max_frame_delay(1);
    settings.set_all_layers(false);
    settings.set_frame_size_limit(u32::try_from(pixels).unwrap_or(u32::MAX).max(1));
    let mut decoder = Decoder::with_settings(&settings).map_err(broken)?;
    match decoder.send_data(stream, None, None, None) {
        Ok(()) | Err(Error::Again) => {}
        Err(error) => return Err(broken(error)),
    }
    let picture = decoder.get_picture().map_err(|error| match error {
        Error::Again => damaged("its AV1 stream holds no picture"),
        error => broken(error),
    })?;
    let sampling = match picture.pixel_layout() {
        PixelLayout::I400 => Sampling::None,
        PixelLayout::I420 => Sampling::Quarter,
        PixelLayout::I422 => Sampling::Half,
        PixelLayout::I444 => Sampling::Full,
    };
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let depth = picture.bit_depth() as u32;
    if !matches!(depth, 8 | 10 | 12) {
        return Err(unsupported(format!("of {depth} bits a sample")));
    }
    Ok(Frame { picture, width, height, depth, sampling, colours })
}

impl Frame {
    /// A row of samples of a plane: luma, then the chroma of blue and of red.
    pub(super) fn row(&self, plane: usize, row: usize) -> Vec<u16> {
        let component = [Component::Y, Component::U, Component::V].into_iter().nth(plane).unwrap_or(Component::Y);
        let width = match (plane, self.sampling) {
            (0, _) | (_, Sampling::Full) => self.width,
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
