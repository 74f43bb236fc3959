//! Errors of TIFF files.

use super::super::error::{ImageError, undecodable};
use super::super::format::PictureFormat;

pub(super) fn damaged(reason: impl std::fmt::Display) -> ImageError {
    undecodable(PictureFormat::Tiff, reason)
}

pub(super) fn ends_early() -> ImageError {
    damaged("its pixel data ends early")
}

/// `what` follows the word TIFF.
pub(super) fn unsupported(what: impl Into<String>) -> ImageError {
    ImageError::Unsupported { what: format!("TIFF {}", what.into()) }
}
