//! Bad pictures with names: truncated, with false sizes, with too many parts, decompression bombs, unsupported formats.
//!
//! A decoder must refuse those of [`refused`]. It may decode or refuse those of [`costly`], which are valid but
//! expensive, and of [`flipped`], in which a few bits are flipped, but it must not crash.

mod avif;
mod bmp;
mod gif;
mod jpeg;
mod metadata;
mod other_formats;
mod png;
mod tiff;
mod valid;
mod webp;

pub use valid::{VALID, ValidPicture};

use crate::Random;

/// A picture that must be refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPicture {
    /// A description that is also usable as a file name.
    pub name: String,
    /// The file.
    pub bytes: Vec<u8>,
    /// Why it must be refused.
    pub fault: PictureFault,
}

/// Why a picture must be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PictureFault {
    /// Its format or variant is not supported.
    Unsupported,
    /// It is damaged, truncated or contradicts itself.
    Damaged,
    /// It exceeds a limit: on pixels, a side, memory, metadata or parts.
    OverLimit,
}

use PictureFault::{Damaged, OverLimit, Unsupported};

fn bad(name: impl Into<String>, bytes: impl Into<Vec<u8>>, fault: PictureFault) -> BadPicture {
    BadPicture { name: name.into(), bytes: bytes.into(), fault }
}

/// All pictures that must be refused. Names are unique, and all files together are smaller than 16 MiB.
pub fn refused() -> Vec<BadPicture> {
    let formats = [png::refused(), jpeg::refused(), gif::refused(), webp::refused(), bmp::refused()].concat();
    [truncated(), other_formats::refused(), formats, tiff::refused(), avif::refused(), metadata::refused()].concat()
}

/// Pictures that are valid, or nearly, and expensive to decode.
pub fn costly() -> Vec<(String, Vec<u8>)> {
    let formats =
        [png::costly(), jpeg::costly(), gif::costly(), bmp::costly(), tiff::costly(), avif::costly()].concat();
    let formats = formats.into_iter().map(|(name, bytes)| (name.to_owned(), bytes));
    formats.chain(metadata::costly()).collect()
}

/// `count` variants of each valid picture, with one to sixteen bits flipped, in every other one within the first 400
/// bytes.
pub fn flipped(seed: u64, count: usize) -> impl Iterator<Item = (String, Vec<u8>)> {
    let mut random = Random::new(seed);
    let numbered = VALID.iter().flat_map(move |picture| (0..count).map(move |number| (picture, number)));
    numbered.map(move |(picture, number)| {
        let mut bytes = picture.bytes.to_vec();
        let range = if number % 2 == 0 { bytes.len().min(400) } else { bytes.len() };
        for _ in 0..=random.below(16) {
            let at = random.below(range);
            bytes[at] ^= 1 << random.below(8);
        }
        (format!("{} flipped {number}", picture.name), bytes)
    })
}

/// Every valid picture, truncated to 5 %, 10 %, … 95 % of its bytes.
fn truncated() -> Vec<BadPicture> {
    let percents = (5..100).step_by(5);
    let cuts = VALID.iter().flat_map(|picture| percents.clone().map(move |percent| (picture, percent)));
    cuts.map(|(picture, percent)| {
        let end = picture.bytes.len() * percent / 100;
        bad(format!("{} cut to {percent} percent", picture.name), &picture.bytes[..end], Damaged)
    })
    .collect()
}

/// A copy of `bytes` with `new` written over the bytes from `at` on.
fn patch(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut patched = bytes.to_vec();
    patched[at..at + new.len()].copy_from_slice(new);
    patched
}
