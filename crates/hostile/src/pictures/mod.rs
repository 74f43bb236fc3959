//! Bad pictures, each with a name: cut, lying about their size, endless, blown up, or of no kind that is read.
//!
//! [`refused`] holds those that no decoder may turn into a picture; [`costly`] those that are whole but made to cost
//! much, and [`flipped`] those with a few changed bytes: both may come to any end but a crash.

mod avif;
mod bases;
mod bmp;
mod gif;
mod jpeg;
mod kinds;
mod metadata;
mod png;
mod tiff;
mod webp;

pub use bases::{Base, WHOLE};

use crate::Random;

/// A picture that is up to no good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPicture {
    /// What it is, in words that can be a file name.
    pub name: String,
    /// The file.
    pub bytes: Vec<u8>,
    /// Why it has to be refused.
    pub fault: PictureFault,
}

/// Why a picture has to be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PictureFault {
    /// It is no picture of a kind that is read.
    Unknown,
    /// It is damaged, cut or contradicts itself.
    Damaged,
    /// It claims more than anyone should decode: pixels, a side, memory, or parts.
    TooMuch,
}

use PictureFault::{Damaged, TooMuch, Unknown};

fn bad(name: impl Into<String>, bytes: impl Into<Vec<u8>>, fault: PictureFault) -> BadPicture {
    BadPicture { name: name.into(), bytes: bytes.into(), fault }
}

/// Every picture that has to be refused. Names are unique, and all files together are below 16 MiB.
pub fn refused() -> Vec<BadPicture> {
    let older = [png::refused(), jpeg::refused(), gif::refused(), webp::refused(), bmp::refused()].concat();
    [cut(), kinds::refused(), older, tiff::refused(), avif::refused(), metadata::refused()].concat()
}

/// Pictures that are whole, or nearly, and made to cost time or memory.
pub fn costly() -> Vec<(String, Vec<u8>)> {
    let formats =
        [png::costly(), jpeg::costly(), gif::costly(), bmp::costly(), tiff::costly(), avif::costly()].concat();
    let formats = formats.into_iter().map(|(name, bytes)| (name.to_owned(), bytes));
    formats.chain(metadata::costly()).collect()
}

/// `count` files of each whole picture with one to sixteen bytes changed, half of them within the first 400.
pub fn flipped(seed: u64, count: usize) -> impl Iterator<Item = (String, Vec<u8>)> {
    let mut random = Random::new(seed);
    let numbered = WHOLE.iter().flat_map(move |base| (0..count).map(move |number| (base, number)));
    numbered.map(move |(base, number)| {
        let mut bytes = base.bytes.to_vec();
        let reach = if number % 2 == 0 { bytes.len().min(400) } else { bytes.len() };
        for _ in 0..=random.below(16) {
            let at = random.below(reach);
            bytes[at] ^= 1 << random.below(8);
        }
        (format!("{} flipped {number}", base.name), bytes)
    })
}

/// Every whole picture cut after each twentieth of it.
fn cut() -> Vec<BadPicture> {
    let percents = (5..100).step_by(5);
    let cuts = WHOLE.iter().flat_map(|base| percents.clone().map(move |percent| (base, percent)));
    cuts.map(|(base, percent)| {
        let end = base.bytes.len() * percent / 100;
        bad(format!("{} cut to {percent} percent", base.name), &base.bytes[..end], Damaged)
    })
    .collect()
}

/// Writes `new` over what is there.
fn patch(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut patched = bytes.to_vec();
    patched[at..at + new.len()].copy_from_slice(new);
    patched
}
