//! WebP as Pillow 13 reads it: the first frame, put on a transparent canvas without blending.

mod container;

use std::ops::Range;

use image::RgbImage;
use image_webp::WebPDecoder;

use super::decode::{Decoded, ImageError, PictureFormat, undecodable};
use super::limits::{DecodeOptions, Paced};
use super::orientation;
use super::transparency::on_white;
use container::{Container, Frame};

/// How much of a stream the decoder gets between two looks at the deadline.
const PIECE: usize = 64 << 10;
const RIFF_HEADER: usize = 8;
const CHUNK_HEADER: usize = 8;
/// Flags and the canvas' sides.
const EXTENDED_HEADER: usize = 10;
const ALPHA_FLAG: u8 = 0x10;
/// In a lossless stream's header, behind its signature of one byte: whether opacity is used.
const LOSSLESS_ALPHA: (usize, u8) = (4, 0x10);

pub(super) fn decode(file: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let container = Container::read(file).map_err(|fault| undecodable(PictureFormat::WebP, fault))?;
    let orientation = orientation::of_metadata(container.exif, container.xmp);
    let frame = &container.frame;
    let (colours, has_alpha) = decode_stream(file, frame, container.has_alpha, options)?;
    // Around the frame, the canvas is transparent black.
    let canvas = image::Rgb(if container.has_alpha { [255; 3] } else { [0; 3] });
    let mut rgb = RgbImage::from_pixel(container.width, container.height, canvas);
    let (left, width) = (frame.x as usize, frame.width as usize);
    let lines = rgb.as_chunks_mut::<3>().0.chunks_exact_mut(container.width as usize).skip(frame.y as usize);
    let lines = lines.filter_map(|line| line.get_mut(left..left + width));
    if has_alpha {
        for (line, pixels) in lines.zip(colours.as_chunks::<4>().0.chunks_exact(width)) {
            line.iter_mut().zip(pixels).for_each(|(to, pixel)| *to = on_white(*pixel));
        }
    } else {
        for (line, pixels) in lines.zip(colours.as_chunks::<3>().0.chunks_exact(width)) {
            line.copy_from_slice(pixels);
        }
    }
    Ok((rgb, orientation))
}

/// Colours of a frame, with opacity where it counts and the stream has it.
fn decode_stream(
    file: &[u8],
    frame: &Frame,
    with_alpha: bool,
    options: &DecodeOptions,
) -> Result<(Vec<u8>, bool), ImageError> {
    let broken = |error: image_webp::DecodingError| undecodable(PictureFormat::WebP, error);
    let stream = still(file, frame, with_alpha);
    let mut decoder = WebPDecoder::new(Paced::new(&stream, PIECE, options.deadline)).map_err(broken)?;
    let mut colours = vec![0; decoder.output_buffer_size().unwrap_or_default()];
    if decoder.dimensions() != (frame.width, frame.height) {
        return Err(undecodable(PictureFormat::WebP, "its headers contradict each other"));
    }
    decoder.read_image(&mut colours).map_err(broken)?;
    Ok((colours, decoder.has_alpha()))
}

/// A file of nothing but one frame. Whether opacity counts is for the container to say, not for the stream.
fn still(file: &[u8], frame: &Frame, with_alpha: bool) -> Vec<u8> {
    let part = |range: &Range<usize>| file.get(range.clone()).unwrap_or_default();
    let mut still = b"RIFF\0\0\0\0WEBP".to_vec();
    if let Some(alpha) = frame.alpha.as_ref().filter(|_| with_alpha) {
        let [width, height] = [frame.width, frame.height].map(|side| (side - 1).to_le_bytes());
        let mut header = [0; EXTENDED_HEADER];
        header[0] = ALPHA_FLAG;
        header[4..7].copy_from_slice(&width[..3]);
        header[7..].copy_from_slice(&height[..3]);
        put(&mut still, b"VP8X", &header);
        put(&mut still, b"ALPH", part(alpha));
    }
    let start = still.len() + CHUNK_HEADER;
    put(&mut still, if frame.is_lossless { b"VP8L" } else { b"VP8 " }, part(&frame.stream));
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

fn put(file: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    file.extend(kind);
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    file.resize(file.len().next_multiple_of(2), 0);
}
