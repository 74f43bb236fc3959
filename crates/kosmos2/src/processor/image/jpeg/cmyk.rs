//! CMYK to RGB.

/// Converts CMYK to RGB as Pillow does, without a colour profile. The inks are inverted, as Adobe stores them in JPEG
/// files and Pillow always assumes.
pub(in super::super) fn cmyk_to_rgb(inverted: &[u8]) -> [u8; 3] {
    // a · b / 255, rounded: Pillow's MULDIV255.
    let multiply = |a: u32, b: u32| {
        let product = a * b + 128;
        ((product >> 8) + product) >> 8
    };
    let inks = [0, 1, 2, 3].map(|ink| 255 - u32::from(inverted[ink]));
    let white = 255 - inks[3];
    [0, 1, 2].map(|ink| white.saturating_sub(multiply(inks[ink], white)) as u8)
}
