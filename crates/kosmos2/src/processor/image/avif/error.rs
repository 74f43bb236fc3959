//! Errors of AVIF files.

use super::super::error::{ImageError, undecodable};
use super::super::format::PictureFormat;

pub(super) fn damaged(reason: impl std::fmt::Display) -> ImageError {
    undecodable(PictureFormat::Avif, reason)
}

/// `what` follows the word AVIF.
pub(super) fn unsupported(what: impl Into<String>) -> ImageError {
    ImageError::Unsupported { what: format!("AVIF {}", what.into()) }
}
