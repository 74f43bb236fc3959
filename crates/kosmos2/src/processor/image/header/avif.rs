//! AVIF: boxes say how large the picture is and where its streams lie; the streams say how many frames they have.

use super::super::avif::Description;
use super::super::decode::ImageError;
use super::super::limits::DecodeOptions;
use super::Claims;

pub(super) fn claims(file: &[u8], options: &DecodeOptions) -> Result<Option<Claims>, ImageError> {
    let found = Description::read(file)?;
    let (width, height) = (found.width, found.height);
    // Before streams are looked at, of which a picture of many tiles has many.
    options.check_size(width.into(), height.into())?;
    Ok(Some(Claims { width, height, memory: found.memory()?.saturating_add(file.len() as u64) }))
}
