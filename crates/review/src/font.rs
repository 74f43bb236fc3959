//! Text in pictures: measures, shortens and draws a line in the embedded font.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};
use image::{Rgb, RgbImage};

#[expect(clippy::expect_used, reason = "the font is part of the program, and tests load it")]
static FACE: LazyLock<FontRef<'static>> = LazyLock::new(|| {
    FontRef::try_from_slice(include_bytes!("../fonts/DejaVuSans-subset.ttf")).expect("the embedded font is valid")
});

/// The font size (em) that gives this line height.
pub(super) fn em(line_height: f32) -> f32 {
    let units = FACE.units_per_em().unwrap_or(FACE.height_unscaled());
    line_height * units / FACE.height_unscaled()
}

/// Width of `text` in pixels at a line height of `line_height` pixels.
pub(super) fn width(text: &str, line_height: f32) -> f32 {
    let mut pen = Pen::new(line_height);
    for c in text.chars() {
        pen.advance(c);
    }
    pen.x
}

/// `text` as one line of at most `max` pixels: runs of white space become one space, and a text that is too long ends in
/// "…". Empty if there is no space even for "…".
pub(super) fn shorten(text: &str, line_height: f32, max: f32) -> String {
    let room = max - width("…", line_height);
    let (mut pen, mut line, mut cut) = (Pen::new(line_height), String::new(), 0);
    for c in one_line(text) {
        pen.advance(c);
        if pen.x > max {
            line.truncate(cut);
            line.truncate(line.trim_end().len());
            if room >= 0.0 {
                line.push('…');
            }
            return line;
        }
        line.push(c);
        if pen.x <= room {
            cut = line.len();
        }
    }
    line
}

/// The characters of `text`, trimmed, with each run of white space as one space.
fn one_line(text: &str) -> impl Iterator<Item = char> {
    let mut gap = false;
    text.trim().chars().filter_map(move |c| {
        let again = gap && c.is_whitespace();
        gap = c.is_whitespace();
        (!again).then_some(if gap { ' ' } else { c })
    })
}

/// Draws `text` with the top left corner of its line at `(x, y)`. Parts outside the picture are clipped; characters that
/// the font lacks appear as an empty box.
pub(super) fn draw(picture: &mut RgbImage, text: &str, line_height: f32, (x, y): (f32, f32), ink: Rgb<u8>) {
    let mut pen = Pen::new(line_height);
    let baseline = y + FACE.as_scaled(line_height).ascent();
    for c in text.chars() {
        let glyph = pen.advance(c);
        let at = point(x + glyph.position.x, baseline);
        let Some(outline) = FACE.outline_glyph(Glyph { position: at, ..glyph }) else { continue };
        let corner = outline.px_bounds().min;
        outline.draw(|dx, dy, cover| {
            let (px, py) = (corner.x as i64 + i64::from(dx), corner.y as i64 + i64::from(dy));
            let (Ok(px), Ok(py)) = (u32::try_from(px), u32::try_from(py)) else { return };
            if let Some(pixel) = picture.get_pixel_mut_checked(px, py) {
                *pixel = blend(*pixel, ink, cover);
            }
        });
    }
}

/// `over` blended over `under` with opacity `alpha`, from 0 to 1.
pub(super) fn blend(under: Rgb<u8>, over: Rgb<u8>, alpha: f32) -> Rgb<u8> {
    let alpha = alpha.clamp(0.0, 1.0);
    let mix = |u: u8, o: u8| (f32::from(u) * (1.0 - alpha) + f32::from(o) * alpha).round() as u8;
    Rgb([0, 1, 2].map(|i| mix(under.0[i], over.0[i])))
}

/// The position on a line, advanced character by character.
struct Pen {
    scale: PxScale,
    x: f32,
    last: Option<ab_glyph::GlyphId>,
}

impl Pen {
    fn new(line_height: f32) -> Self {
        Self { scale: PxScale::from(line_height), x: 0.0, last: None }
    }

    /// The glyph of `c` at the current position; moves past it.
    fn advance(&mut self, c: char) -> Glyph {
        let font = FACE.as_scaled(self.scale);
        let id = font.glyph_id(c);
        if let Some(last) = self.last.replace(id) {
            self.x += font.kern(last, id);
        }
        let glyph = id.with_scale_and_position(self.scale, point(self.x, 0.0));
        self.x += font.h_advance(id);
        glyph
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inked(text: &str) -> usize {
        let mut picture = RgbImage::new(400, 40);
        draw(&mut picture, text, 24.0, (4.0, 4.0), Rgb([255; 3]));
        picture.pixels().filter(|p| p.0[0] > 0).count()
    }

    #[test]
    fn the_font_has_the_scripts_it_is_meant_to_have() {
        for c in "aZ09äßñçŁřėşőƒπΩЖщЇЎ…–—“”„‘’«»€£°·×→½".chars() {
            assert_ne!(FACE.glyph_id(c).0, 0, "{c}");
        }
    }

    #[test]
    fn missing_characters_show_a_box() {
        for text in ["雪だるま", "\u{1f9ca}", "\u{e000}", "\u{10ffff}", "\u{7}"] {
            assert!(inked(text) > 20, "{text:?}");
        }
    }

    #[test]
    fn short_text_stays_and_long_text_ends_in_an_ellipsis_inside_the_room() {
        assert_eq!(shorten(" a\n\t snowman ", 20.0, 300.0), "a snowman");
        for max in [0.0, 5.0, 20.0, 47.0, 133.0] {
            let line = shorten("the giraffe that stands beside the two water towers", 20.0, max);
            assert!(width(&line, 20.0) <= max, "{line:?} at {max}");
            assert!(line.is_empty() || line.ends_with('…'), "{line:?}");
        }
        assert!(shorten(&"Ж".repeat(1_000_000), 20.0, 100.0).chars().count() < 20);
    }

    #[test]
    fn text_over_the_rim_is_cut_off() {
        let mut picture = RgbImage::new(10, 10);
        draw(&mut picture, "overlong Ж", 30.0, (-20.0, -15.0), Rgb([255; 3]));
        draw(&mut RgbImage::new(0, 0), "x", 30.0, (0.0, 0.0), Rgb([255; 3]));
    }
}
