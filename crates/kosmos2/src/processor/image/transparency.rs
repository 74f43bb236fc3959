//! Compositing over white in Pillow's fixed-point arithmetic, and palettes with alpha.

/// An RGBA pixel composited over opaque white as by Pillow's `alpha_composite`.
#[inline]
pub(super) fn on_white([red, green, blue, alpha]: [u8; 4]) -> [u8; 3] {
    let alpha = u32::from(alpha);
    let blend = |byte: u8| {
        let sum = (u32::from(byte) * alpha + 255 * (255 - alpha)) * 128 + (0x80 << 7);
        ((((sum >> 8) + sum) >> 8) >> 7) as u8
    };
    [blend(red), blend(green), blend(blue)]
}

/// A palette of 256 RGBA colours. Those that a file does not set are opaque black, as in Pillow.
pub(super) struct Palette([[u8; 4]; 256]);

impl Palette {
    pub(super) fn new(colours: impl IntoIterator<Item = [u8; 3]>) -> Self {
        let mut palette = Self([[0, 0, 0, 255]; 256]);
        for (entry, [red, green, blue]) in palette.0.iter_mut().zip(colours) {
            *entry = [red, green, blue, 255];
        }
        palette
    }

    /// The palette of a file without one: each index is a shade of gray.
    pub(super) fn gray() -> Self {
        Self::new((0..=255).map(|shade| [shade; 3]))
    }

    pub(super) fn set_alpha(&mut self, index: u8, alpha: u8) {
        self.0[usize::from(index)][3] = alpha;
    }

    /// The colours composited over white.
    pub(super) fn on_white(&self) -> [[u8; 3]; 256] {
        self.0.map(on_white)
    }
}
