//! Why a picture cannot be decoded.

use super::format::PictureFormat;

/// Why a picture cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The file has no bytes.
    #[error("the picture is empty: it has no bytes")]
    Empty,
    /// The first bytes match no known format.
    #[error("the picture has an unknown format; supported formats are JPEG, PNG, GIF, WebP, BMP, TIFF and AVIF")]
    UnknownFormat,
    /// The format is recognized but not supported.
    #[error("the picture is {name}, which is not supported; convert it to JPEG, PNG, GIF, WebP, BMP, TIFF or AVIF")]
    UnsupportedFormat {
        /// The format, with its article.
        name: &'static str,
    },
    /// The content is recognized, and is not a picture: a page, an archive, a video.
    #[error("the file is {name}, not a picture")]
    NotAPicture {
        /// What it is, with its article.
        name: &'static str,
    },
    /// The format is supported, but not this variant of it.
    #[error("the picture cannot be decoded: {what} is not supported; convert it to another variant or format")]
    Unsupported {
        /// The variant, starting with the format's name.
        what: String,
    },
    /// The file is damaged or truncated.
    #[error("the picture is a damaged or incomplete {} file: {reason}", format.as_str())]
    Undecodable {
        /// The format that its first bytes state.
        format: PictureFormat,
        /// What is wrong with it, or the decoder's message.
        reason: String,
    },
    /// Width times height exceeds [`DecodeOptions::max_pixels`](super::DecodeOptions::max_pixels).
    #[error("the picture has {width}×{height} pixels, more than the limit of {limit}")]
    TooManyPixels {
        /// Width that the header states.
        width: u64,
        /// Height that the header states.
        height: u64,
        /// The limit on their product.
        limit: u64,
    },
    /// A side exceeds [`DecodeOptions::max_side`](super::DecodeOptions::max_side).
    #[error("the picture has {width}×{height} pixels, but a side may have at most {limit}")]
    SideTooLong {
        /// Width that the header states.
        width: u64,
        /// Height that the header states.
        height: u64,
        /// The limit on both.
        limit: u32,
    },
    /// Decoding would exceed [`DecodeOptions::max_memory`](super::DecodeOptions::max_memory).
    #[error("the picture takes {needed} bytes of memory to decode, more than the limit of {limit}")]
    TooMuchMemory {
        /// Bytes that decoding takes according to the headers.
        needed: u64,
        /// The limit.
        limit: u64,
    },
    /// The metadata exceed a fixed limit on memory. Reading stops there, so the total size is not known.
    #[error("the picture is a {} file with too much metadata; remove the metadata to have it decoded", format.as_str())]
    TooMuchMetadata {
        /// The format.
        format: PictureFormat,
    },
    /// The file has more parts of a kind than any legitimate file needs.
    #[error("the picture is a {} file with more than {limit} {part}; save it again with fewer", format.as_str())]
    TooManyParts {
        /// The format.
        format: PictureFormat,
        /// The kind of part, in the plural: scans, segments, chunks, frames.
        part: &'static str,
        /// The limit.
        limit: u64,
    },
    /// [`DecodeOptions::deadline`](super::DecodeOptions::deadline) passed.
    #[error("the picture was not decoded within the time allowed for it")]
    TimedOut,
}

/// A limit of [`DecodeOptions`](super::DecodeOptions) that a caller can raise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeLimit {
    /// [`DecodeOptions::max_pixels`](super::DecodeOptions::max_pixels).
    Pixels,
    /// [`DecodeOptions::max_side`](super::DecodeOptions::max_side).
    Side,
    /// [`DecodeOptions::max_memory`](super::DecodeOptions::max_memory).
    Memory,
}

impl ImageError {
    /// Whether the bytes are those of no picture, supported or not, as far as its format is known.
    pub fn is_no_picture(&self) -> bool {
        matches!(self, Self::Empty | Self::UnknownFormat | Self::NotAPicture { .. })
    }

    /// The limit that the picture exceeds, if raising it could let the picture through.
    pub fn exceeded_limit(&self) -> Option<DecodeLimit> {
        match self {
            Self::TooManyPixels { .. } => Some(DecodeLimit::Pixels),
            Self::SideTooLong { .. } => Some(DecodeLimit::Side),
            Self::TooMuchMemory { .. } => Some(DecodeLimit::Memory),
            _ => None,
        }
    }
}

/// An [`ImageError::Undecodable`].
pub(super) fn undecodable(format: PictureFormat, reason: impl std::fmt::Display) -> ImageError {
    ImageError::Undecodable { format, reason: reason.to_string() }
}
