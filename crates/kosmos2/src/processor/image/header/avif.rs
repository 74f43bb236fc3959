//! AVIF: boxes state the picture's size and where its AV1 streams are; the streams' OBUs are counted.

use super::super::avif::Description;
use super::super::error::ImageError;
use super::super::limits::DecodeOptions;
use super::estimate::Estimate;

pub(super) fn estimate(file: &[u8], options: &DecodeOptions) -> Result<Option<Estimate>, ImageError> {
    let description = Description::read(file)?;
    let (width, height) = (description.width, description.height);
    // Before reading the streams: a grid can have many.
    options.check_size(width.into(), height.into())?;
    Ok(Some(Estimate { width, height, memory: description.memory()?.saturating_add(file.len() as u64) }))
}
