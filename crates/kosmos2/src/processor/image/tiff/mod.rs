//! TIFF, as Pillow reads it: the first picture of a file.
//!
//! Fields are read here, since Pillow's choice of kinds and its ways with files that break the rules decide about the
//! bytes. Packed pixels are unpacked by others: LZW by weezl, Deflate by flate2, the fax codes by hayro-ccitt, JPEG by
//! libjpeg's own arithmetic.

mod directory;
mod jpeg;
mod layout;
mod pieces;
mod samples;
mod ycbcr;

use image::RgbImage;

pub(super) use directory::Directory;
pub(super) use layout::{Layout, Packing};

use super::decode::{Decoded, ImageError};
use super::jpeg::ink_to_light;
use super::limits::DecodeOptions;
use super::orientation;
use super::transparency::on_white;
use layout::{damaged, unsupported};
use samples::{Mode, Unpacker, divided};
use ycbcr::YCbCr;

/// Rows between two looks at the deadline.
const ROWS: usize = 256;

/// An EXIF block that holds an orientation and nothing else.
fn exif_of(orientation: u64) -> Vec<u8> {
    const ENTRY: &[u8] = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0";
    // None of the numbers above 8 means anything.
    [ENTRY, &[orientation.min(9) as u8, 0, 0, 0], &[0; 4]].concat()
}

pub(super) fn decode(file: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let layout = Layout::read(file, options)?;
    let mode = layout.mode();
    let mut canvas = Canvas {
        bytes: vec![0; layout.width as usize * layout.height as usize * mode.bytes()],
        width: layout.width as usize,
        height: layout.height as usize,
        mode,
    };
    if layout.packing == Packing::None {
        stored(file, &layout, &mut canvas, options)?;
    } else if layout.is_ycbcr && (layout.packing != Packing::Jpeg || layout.is_planar) {
        luma_and_chroma(file, &layout, &mut canvas, options)?;
    } else {
        packed(file, &layout, &mut canvas, options)?;
    }
    options.check_time()?;
    let (stated, xmp) = layout.orientation();
    let orientation = orientation::of_metadata(stated.map(exif_of).as_deref(), xmp);
    Ok((canvas.into_rgb(&layout)?, orientation))
}

/// The pixels in Pillow's mode.
struct Canvas {
    bytes: Vec<u8>,
    width: usize,
    height: usize,
    mode: Mode,
}

impl Canvas {
    /// A row of pixels from a column on, at most `width` of them.
    fn row(&mut self, x: usize, y: usize, width: usize) -> &mut [u8] {
        let pixel = self.mode.bytes();
        let start = (y * self.width + x) * pixel;
        let end = (y * self.width + (x + width).min(self.width)) * pixel;
        self.bytes.get_mut(start..end).unwrap_or_default()
    }

    fn into_rgb(self, layout: &Layout) -> Result<RgbImage, ImageError> {
        let (width, height) = (layout.width, layout.height);
        let unfilled = || damaged("its pixels do not fill its size");
        let whole = |bytes: Vec<u8>| RgbImage::from_raw(width, height, bytes).ok_or_else(unfilled);
        match self.mode {
            Mode::Rgb => whole(self.bytes),
            Mode::Rgba => whole(self.bytes.as_chunks::<4>().0.iter().flat_map(|&pixel| on_white(pixel)).collect()),
            Mode::Gray => whole(self.bytes.iter().flat_map(|&gray| [gray; 3]).collect()),
            Mode::GrayAlpha => {
                let pixels = self.bytes.as_chunks::<2>().0.iter();
                whole(pixels.flat_map(|&[gray, alpha]| on_white([gray, gray, gray, alpha])).collect())
            }
            Mode::Palette => {
                let colours = colours(layout)?;
                whole(self.bytes.iter().flat_map(|&index| colours[usize::from(index)]).collect())
            }
            Mode::PaletteAlpha => {
                let colours = colours(layout)?;
                let shown = |[index, alpha]: [u8; 2]| {
                    let [red, green, blue] = colours[usize::from(index)];
                    on_white([red, green, blue, alpha])
                };
                whole(self.bytes.as_chunks::<2>().0.iter().flat_map(|&pixel| shown(pixel)).collect())
            }
            Mode::Cmyk => {
                let pixels = self.bytes.as_chunks::<4>().0.iter();
                whole(pixels.flat_map(|inks| ink_to_light(&inks.map(|ink| 255 - ink))).collect())
            }
            Mode::YCbCr => {
                let pixels = self.bytes.as_chunks::<3>().0.iter();
                whole(pixels.flat_map(|&pixel| ycbcr::pillows_rgb(pixel)).collect())
            }
        }
    }
}

/// The colour map: all reds, then all greens, then all blues; of each the high byte.
fn colours(layout: &Layout) -> Result<[[u8; 3]; 256], ImageError> {
    let map = layout.colour_map.ok_or_else(|| damaged("it has no colour map"))?;
    let count = map.len() / 3;
    let colour = |at: usize| map.get(at).map_or(0, |value| (value >> 8) as u8);
    Ok(std::array::from_fn(
        |index| {
            if index < count { [0, 1, 2].map(|band| colour(index + band * count)) } else { [0; 3] }
        },
    ))
}

/// Pixels that are not packed: Pillow reads them from where each strip or tile begins, however long it says it is.
fn stored(file: &[u8], layout: &Layout, canvas: &mut Canvas, options: &DecodeOptions) -> Result<(), ImageError> {
    let mode = canvas.mode;
    let (across, down, _) = layout.pieces();
    let (across, in_plane) = (across as usize, across as usize * down as usize);
    let (wide, high) = (layout.grid.width as usize, layout.grid.height as usize);
    let is_one_piece = (wide, high) == (canvas.width, canvas.height) && !layout.is_planar;
    let first = if is_one_piece { layout.offsets.len() - 1 } else { 0 };
    let mut pieces = Vec::new();
    for index in first..layout.offsets.len() {
        let start = layout.offsets.get(index).and_then(|start| usize::try_from(start).ok());
        let start = start.ok_or_else(|| damaged("a strip or tile does not lie within it"))?;
        pieces.push((start, index - first));
    }
    // In the order of the file; of several for the same place the last one is shown.
    pieces.sort_by_key(|(start, _)| *start);
    for (start, index) in pieces {
        let (plane, place) = (index / in_plane, index % in_plane);
        let (x, y) = (place % across * wide, place / across * high);
        let unpacker = if layout.is_planar { Unpacker::letter(layout.raw, plane) } else { Unpacker::new(layout.raw) };
        let unpacker = unpacker.ok_or_else(|| unsupported("whose planes are not packed and not 8-bit colours"))?;
        let (width, rows) = (wide.min(canvas.width - x), high.min(canvas.height - y));
        let row = (width * unpacker.bits).div_ceil(8);
        // Only rows that reach beyond the picture have anything behind them.
        let stride = if x + wide > canvas.width { stride(layout, wide) } else { row };
        let skip = stride.checked_sub(row).ok_or_else(|| damaged("its tiles are narrower than their rows"))?;
        let bytes = file.get(start..).filter(|rest| rest.len() >= rows * row + (rows - 1) * skip);
        let bytes = bytes.ok_or_else(|| damaged("it ends before its pixels do"))?;
        for (line, bytes) in bytes.chunks(stride).take(rows).enumerate() {
            if line % ROWS == 0 {
                options.check_time()?;
            }
            unpacker.run(bytes.get(..row).unwrap_or(bytes), canvas.row(x, y + line, width), mode);
        }
    }
    Ok(())
}

/// Bytes of a tile's row as Pillow counts them.
fn stride(layout: &Layout, width: usize) -> usize {
    let (bits, samples) = layout.counted;
    width * bits / 8 / if layout.is_planar { samples } else { 1 }
}

/// Calls `draw` with every piece that is shown: its plane, its place, its rows, and its unpacked bytes.
fn for_pieces(
    file: &[u8],
    layout: &Layout,
    planes: usize,
    bytes: impl Fn(usize) -> usize,
    options: &DecodeOptions,
    mut draw: impl FnMut(usize, (usize, usize), usize, &[u8]),
) -> Result<(), ImageError> {
    let (across, down, _) = layout.pieces();
    let (wide, high) = (layout.grid.width as usize, layout.grid.height as usize);
    let mut buffer = Vec::new();
    for plane in 0..planes {
        for place in 0..across as usize * down as usize {
            options.check_time()?;
            let (x, y) = (place % across as usize * wide, place / across as usize * high);
            let shown = high.min(layout.height as usize - y);
            // Tiles are whole, the last strip is not.
            let rows = if layout.grid.is_tiled { high } else { shown };
            let index = plane * across as usize * down as usize + place;
            buffer.resize(bytes(rows), 0);
            pieces::unpack(&pieces::packed(file, layout, index)?, layout, rows, &mut buffer, options)?;
            draw(plane, (x, y), shown, &buffer);
        }
    }
    Ok(())
}

/// Packed pixels, as libtiff hands them to Pillow.
fn packed(file: &[u8], layout: &Layout, canvas: &mut Canvas, options: &DecodeOptions) -> Result<(), ImageError> {
    let mode = canvas.mode;
    let is_in_planes = layout.is_planar && !matches!(mode, Mode::Gray | Mode::Palette);
    let unsuited = || unsupported("whose samples lie in planes in a way that Pillow does not read");
    // Once unpacked, whole samples are in the order of this kind of machine.
    let raw = if layout.is_ycbcr { layout.raw.as_rgb() } else { layout.raw.swapped() };
    let unpacker = Unpacker::new(raw).ok_or_else(unsuited)?;
    let planes = if is_in_planes { mode.bytes() } else { 1 };
    if is_in_planes && !matches!(layout.bits, 8 | 16) {
        return Err(unsuited());
    }
    let (row, wide) = (layout.row_bytes(), layout.grid.width as usize);
    if (wide * unpacker.bits / planes).div_ceil(8) != row {
        return Err(unsuited());
    }
    let high = layout.grid.height as usize;
    if layout.grid.is_tiled && row * high > (high * unpacker.bits / planes).div_ceil(8) * wide {
        return Err(unsupported("whose tiles are of a size that Pillow does not read"));
    }
    for_pieces(
        file,
        layout,
        planes,
        |rows| rows * row,
        options,
        |plane, (x, y), rows, bytes| {
            let unpacker = if is_in_planes { Unpacker::plane(plane, layout.bits) } else { unpacker };
            for (line, bytes) in bytes.chunks_exact(row.max(1)).take(rows).enumerate() {
                unpacker.run(bytes, canvas.row(x, y + line, wide), mode);
            }
        },
    )?;
    if is_in_planes && layout.is_premultiplied_plane {
        for [red, green, blue, alpha] in canvas.bytes.as_chunks_mut::<4>().0 {
            [red, green, blue].into_iter().for_each(|colour| *colour = divided(*colour, *alpha));
        }
    }
    Ok(())
}

/// Packed luma and chroma that is not JPEG, or lies in planes.
fn luma_and_chroma(
    file: &[u8],
    layout: &Layout,
    canvas: &mut Canvas,
    options: &DecodeOptions,
) -> Result<(), ImageError> {
    let colours = YCbCr::new(&layout.directory, layout.is_planar)?;
    if layout.samples != 3 || layout.bits != 8 {
        return Err(unsupported("of YCbCr with other than three samples of 8 bits"));
    }
    if layout.predictor != 1 && !colours.is_full() {
        return Err(unsupported("of YCbCr with a predictor and shared chroma"));
    }
    let wide = layout.grid.width as usize;
    if !layout.is_planar {
        return for_pieces(
            file,
            layout,
            1,
            |rows| colours.piece_bytes(wide, rows),
            options,
            |_, (x, y), rows, bytes| {
                for line in 0..rows {
                    let row = canvas.row(x, y + line, wide).as_chunks_mut::<3>().0;
                    for (column, pixel) in row.iter_mut().enumerate() {
                        *pixel = colours.pixel(bytes, wide, (column, line));
                    }
                }
            },
        );
    }
    for_pieces(
        file,
        layout,
        3,
        |rows| rows * wide,
        options,
        |plane, (x, y), rows, bytes| {
            for (line, bytes) in bytes.chunks_exact(wide).take(rows).enumerate() {
                let row = canvas.row(x, y + line, wide).as_chunks_mut::<3>().0;
                row.iter_mut().zip(bytes).for_each(|(pixel, byte)| pixel[plane] = *byte);
            }
        },
    )?;
    canvas.bytes.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| *pixel = colours.rgb(*pixel));
    Ok(())
}
