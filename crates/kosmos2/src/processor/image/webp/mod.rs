//! WebP as Pillow 13 decodes it: the first frame, copied to a transparent canvas without blending.

mod container;

use std::ops::Range;

use image::RgbImage;
use image_webp::WebPDecoder;

use super::deadline_reader::DeadlineReader;
use super::error::{ImageError, undecodable};
use super::format::PictureFormat;
use super::limits::DecodeOptions;
use super::orientation;
use super::picture::Decoded;
use super::transparency::on_white;
use container::{Container, Frame};

/// Bytes of a bitstream that the decoder reads between two checks of the deadline.
const READ_SIZE: usize = 64 << 10;
const RIFF_HEADER: usize = 8;
const CHUNK_HEADER: usize = 8;
/// Flags, and width and height of the canvas.
const EXTENDED_HEADER: usize = 10;
const ALPHA_FLAG: u8 = 0x10;
/// Offset and mask of the alpha bit in the header of a VP8L bitstream.
const LOSSLESS_ALPHA: (usize, u8) = (4, 0x10);

pub(super) fn decode(file: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let container = Container::read(file).map_err(|reason| undecodable(PictureFormat::WebP, reason))?;
    let orientation = orientation::of_metadata(container.exif, container.xmp);
    let frame = &container.frame;
    let (pixels, has_alpha) = decode_bitstream(file, frame, container.has_alpha, options)?;
    // Outside of the frame, the canvas is transparent black; without alpha, black.
    let canvas = image::Rgb(if container.has_alpha { [255; 3] } else { [0; 3] });
    let mut rgb = RgbImage::from_pixel(container.width, container.height, canvas);
    let (left, width) = (frame.x as usize, frame.width as usize);
    let rows = rgb.as_chunks_mut::<3>().0.chunks_exact_mut(container.width as usize).skip(frame.y as usize);
    let rows = rows.filter_map(|row| row.get_mut(left..left + width));
    if has_alpha {
        for (row, pixels) in rows.zip(pixels.as_chunks::<4>().0.chunks_exact(width)) {
            row.iter_mut().zip(pixels).for_each(|(to, pixel)| *to = on_white(*pixel));
        }
    } else {
        for (row, pixels) in rows.zip(pixels.as_chunks::<3>().0.chunks_exact(width)) {
            row.copy_from_slice(pixels);
        }
    }
    Ok((rgb, orientation))
}

/// Decodes a frame to RGB, or to RGBA if `with_alpha` is set and the bitstream has alpha; and which of them it is.
fn decode_bitstream(
    file: &[u8],
    frame: &Frame,
    with_alpha: bool,
    options: &DecodeOptions,
) -> Result<(Vec<u8>, bool), ImageError> {
    let damaged = |error: image_webp::DecodingError| undecodable(PictureFormat::WebP, error);
    let still = still_file(file, frame, with_alpha);
    let reader = DeadlineReader::new(&still, READ_SIZE, options.deadline);
    let mut decoder = WebPDecoder::new(reader).map_err(damaged)?;
    let mut pixels = vec![0; decoder.output_buffer_size().unwrap_or_default()];
    if decoder.dimensions() != (frame.width, frame.height) {
        return Err(undecodable(PictureFormat::WebP, "its headers contradict each other"));
    }
    decoder.read_image(&mut pixels).map_err(damaged)?;
    Ok((pixels, decoder.has_alpha()))
}

/// A WebP file with a single frame. The container decides whether alpha is used, so the bitstream's alpha bit is set to
/// `with_alpha`.
fn still_file(file: &[u8], frame: &Frame, with_alpha: bool) -> Vec<u8> {
    let bytes = |range: &Range<usize>| file.get(range.clone()).unwrap_or_default();
    let mut still = b"RIFF\0\0\0\0WEBP".to_vec();
    if let Some(alpha) = frame.alpha.as_ref().filter(|_| with_alpha) {
        let [width, height] = [frame.width, frame.height].map(|side| (side - 1).to_le_bytes());
        let mut header = [0; EXTENDED_HEADER];
        header[0] = ALPHA_FLAG;
        header[4..7].copy_from_slice(&width[..3]);
        header[7..].copy_from_slice(&height[..3]);
        add_chunk(&mut still, b"VP8X", &header);
        add_chunk(&mut still, b"ALPH", bytes(alpha));
    }
    let start = still.len() + CHUNK_HEADER;
    add_chunk(&mut still, if frame.is_lossless { b"VP8L" } else { b"VP8 " }, bytes(&frame.bitstream));
    if frame.is_lossless {
        let (at, flag) = LOSSLESS_ALPHA;
        if let Some(byte) = still.get_mut(start + at) {
            *byte = if with_alpha { *byte | flag } else { *byte & !flag };
        }
    }
    let size = (still.len() - RIFF_HEADER) as u32;
    still[4..RIFF_HEADER].copy_from_slice(&size.to_le_bytes());
    still
}

fn add_chunk(file: &mut Vec<u8>, fourcc: &[u8; 4], data: &[u8]) {
    file.extend(fourcc);
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    file.resize(file.len().next_multiple_of(2), 0);
}
