//! AVIF as Pillow 13 decodes it: a still picture, or the first frame of an image sequence.
//!
//! Boxes are parsed here. AV1 streams are decoded by rav1d, a port of dav1d, with which Pillow decodes. The conversion
//! to RGB reproduces libavif's arithmetic.

mod av1_stream;
mod boxes;
mod cicp;
mod container;
mod description;
mod error;
mod items;
mod memory;
mod planes;
mod rgb;
mod sequence_header;
mod tracks;
mod yuv_fixed_point;
mod yuv_float;

pub(super) use container::is_avif;
pub(super) use description::Description;

use super::error::ImageError;
use super::limits::DecodeOptions;
use super::picture::Decoded;
use error::damaged;
use planes::Planes;

pub(super) fn decode(file: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let description = Description::read(file)?;
    let orientation = description.orientation();
    let size = (description.width, description.height);
    let planes = Planes::decode(description.colour, size, false, options)?;
    let alpha = description.alpha.map(|streams| Planes::decode(streams, size, true, options)).transpose()?;
    if alpha.as_ref().is_some_and(|alpha| alpha.depth != planes.depth) {
        return Err(damaged("its alpha has a different bit depth"));
    }
    let cicp = description.cicp.unwrap_or(planes.cicp);
    let rgb = rgb::to_rgb(&planes, alpha.as_ref(), description.is_premultiplied, cicp, options)?;
    Ok((rgb, orientation))
}
