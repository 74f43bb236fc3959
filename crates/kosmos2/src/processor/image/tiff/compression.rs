//! The compression schemes of TIFF.

use super::super::error::ImageError;
use super::directory::Directory;
use super::error::unsupported;
use super::tags::GROUP3_OPTIONS;

/// How pixels are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Compression {
    None,
    /// CCITT modified Huffman. Each row starts at a multiple of `row_alignment` bytes.
    ModifiedHuffman {
        row_alignment: usize,
    },
    /// CCITT Group 3, one- or two-dimensional.
    Group3 {
        is_two_dimensional: bool,
    },
    /// CCITT Group 4.
    Group4,
    Lzw,
    Jpeg,
    Deflate,
    PackBits,
}

impl Compression {
    /// The scheme with a number of the compression field.
    pub(super) fn read(directory: &Directory, compression: u64) -> Result<Self, ImageError> {
        let refuse = |name: &str| Err(unsupported(format!("with {name} compression")));
        match compression {
            1 => Ok(Self::None),
            2 => Ok(Self::ModifiedHuffman { row_alignment: 1 }),
            32_771 => Ok(Self::ModifiedHuffman { row_alignment: 2 }),
            3 => {
                let options = directory.number(GROUP3_OPTIONS, 0).unwrap_or_default();
                Ok(Self::Group3 { is_two_dimensional: options & 1 == 1 })
            }
            4 => Ok(Self::Group4),
            5 => Ok(Self::Lzw),
            6 => refuse("old-style JPEG (6)"),
            7 => Ok(Self::Jpeg),
            8 | 32_946 => Ok(Self::Deflate),
            32_773 => Ok(Self::PackBits),
            32_809 => refuse("ThunderScan (32809)"),
            33_003 | 33_004 | 33_005 | 34_712 => refuse("JPEG 2000"),
            34_676 | 34_677 => refuse("SGI LogLuv (34676)"),
            34_925 => refuse("LZMA (34925)"),
            50_000 => refuse("Zstandard (50000)"),
            50_001 => refuse("WebP (50001)"),
            number => refuse(&format!("unknown ({number})")),
        }
    }
}
