//! One colour for each phrase.

use std::collections::HashMap;

/// Red, green, blue.
pub(super) type Rgb = [u8; 3];

/// Twelve hues of different lightness, chosen in OKLCH; neighbours in the list are far apart.
const PALETTE: [Rgb; 12] = [
    [0xdd, 0x14, 0x2c],
    [0x5b, 0xcc, 0xfe],
    [0x6d, 0xe8, 0x50],
    [0xf9, 0x3c, 0xbb],
    [0xfd, 0xd5, 0x06],
    [0x21, 0x68, 0xf2],
    [0xfa, 0x89, 0x27],
    [0x2b, 0xd2, 0xc2],
    [0xa0, 0x53, 0xfd],
    [0x1e, 0xa6, 0x62],
    [0xfe, 0xbe, 0xbd],
    [0xbc, 0xb3, 0xfa],
];

/// Colour `index`: from the palette first, then hues a golden angle apart, which never repeat.
pub(super) fn colour(index: usize) -> Rgb {
    if let Some(known) = PALETTE.get(index) {
        return *known;
    }
    let hue = (index as f64 * 137.508) % 360.0;
    let lightness = if index.is_multiple_of(2) { 0.45 } else { 0.7 };
    let channel = |offset: f64| {
        // HSL to RGB at saturation 0.8.
        let k = (offset + hue / 30.0) % 12.0;
        let swing = 0.8 * f64::min(lightness, 1.0 - lightness);
        let value = lightness - swing * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0);
        (value * 255.0).round() as u8
    };
    [channel(0.0), channel(8.0), channel(4.0)]
}

/// The text colour for `ground`: black or white, whichever has more contrast. It is always at least 4.5:1, the minimum
/// of WCAG for text.
pub(super) fn ink(ground: Rgb) -> Rgb {
    let dark = contrast(ground, [0; 3]);
    if dark >= contrast(ground, [255; 3]) { [0; 3] } else { [255; 3] }
}

/// The contrast ratio as WCAG defines it, from 1 to 21.
fn contrast(a: Rgb, b: Rgb) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// Relative luminance of an sRGB colour, from 0 to 1.
fn luminance(colour: Rgb) -> f64 {
    let [r, g, b] = colour.map(|channel| {
        let c = f64::from(channel) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    });
    0.2126 * r + 0.7152 * g + 0.0722 * b
}

/// Assigns colour numbers: the same phrase gets the same number, a new phrase the next one.
#[derive(Default)]
pub(super) struct Assigned<'a>(HashMap<&'a str, usize>);

impl<'a> Assigned<'a> {
    /// The number of `phrase`; white space around it is ignored.
    pub(super) fn number(&mut self, phrase: &'a str) -> usize {
        let next = self.0.len();
        *self.0.entry(phrase.trim()).or_insert(next)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_first_hundred_colours_differ_and_carry_readable_text() {
        let colours: Vec<Rgb> = (0..100).map(colour).collect();
        assert_eq!(colours.iter().collect::<HashSet<_>>().len(), 100);
        for c in colours {
            assert!(contrast(c, ink(c)) >= 4.5, "{c:?}");
        }
    }

    #[test]
    fn the_same_phrase_keeps_its_number() {
        let mut assigned = Assigned::default();
        assert_eq!(["a cat", "a dog", " a cat ", "a fox"].map(|p| assigned.number(p)), [0, 1, 0, 2]);
    }
}
