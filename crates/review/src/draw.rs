//! Boxes and phrases drawn into a picture.

use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};

use crate::annotation::{GroundedEntity, tidy_box};
use crate::colour::{self, Assigned};
use crate::font::{self, blend};
use crate::place::{LabelRequest, PlacedLabel, Rect, place};

/// Pictures whose longer side is below this, in pixels, are enlarged: labels would cover what they name.
const MIN_SIDE: u32 = 640;

/// A phrase cut to this many characters or fewer is shown without its score, which leaves it more space.
const MIN_CUT_LENGTH: usize = 5;

/// Draws the boxes of `entities` with their phrases and scores.
///
/// All boxes of a phrase have the same colour. Line widths and text sizes are proportional to the picture. A picture
/// whose longer side is below 640 pixels is first enlarged by the smallest integer factor that reaches 640, because
/// labels would not be legible otherwise: the result is then larger than `picture`.
///
/// Labels neither overlap nor extend beyond the picture. A phrase that is too long ends in "…"; a label for which there
/// is no space is omitted, its box is still drawn. Reversed corners are swapped, corners outside the picture are clamped,
/// and boxes with a NaN are not drawn. An empty picture is returned unchanged.
pub fn draw(picture: &RgbImage, entities: &[GroundedEntity]) -> RgbImage {
    let (w, h) = picture.dimensions();
    if w == 0 || h == 0 {
        return picture.clone();
    }
    let factor = MIN_SIDE.div_ceil(w.max(h));
    let mut canvas =
        if factor > 1 { resize(picture, w * factor, h * factor, FilterType::CatmullRom) } else { picture.clone() };
    let measures = Measures::of(&canvas);
    let marks = marks(entities, &measures);

    // The largest box first, so that boxes inside it stay visible.
    let mut by_size: Vec<&Mark> = marks.iter().collect();
    by_size.sort_by(|a, b| (b.frame.w * b.frame.h).total_cmp(&(a.frame.w * a.frame.h)));
    for mark in by_size {
        draw_frame(&mut canvas, mark, &measures);
    }

    let named: Vec<&Mark> = marks.iter().filter(|mark| !mark.words.is_empty()).collect();
    let requests: Vec<LabelRequest> =
        named.iter().map(|mark| LabelRequest { target: mark.frame, size: measures.label(&mark.words) }).collect();
    let labels: Vec<(&Mark, PlacedLabel)> = named
        .into_iter()
        .zip(place(measures.area, &requests))
        .filter_map(|(mark, placed)| Some((mark, placed?)))
        .collect();
    for (mark, placed) in &labels {
        if let Some(ends) = placed.leader {
            draw_leader(&mut canvas, ends, mark.colour, &measures);
        }
    }
    for (mark, placed) in &labels {
        draw_label(&mut canvas, &placed.label, mark, &measures);
    }
    canvas
}

/// Sizes in pixels, derived from the picture's.
struct Measures {
    area: (f64, f64),
    line: f64,
    halo: f64,
    text: f32,
    pad: f64,
}

impl Measures {
    fn of(picture: &RgbImage) -> Self {
        let area = (f64::from(picture.width()), f64::from(picture.height()));
        // The geometric mean of the sides, so that a panorama gets neither hairlines nor huge text.
        let side = (area.0 * area.1).sqrt();
        let text = (side * 0.023).round().max(17.0);
        Self {
            area,
            line: (side * 0.004).round().max(3.0),
            halo: (side * 0.0012).round().max(1.0),
            text: text as f32,
            pad: (text * 0.25).round(),
        }
    }

    /// The longest text of a label, in pixels: half the picture's width, but 11 to 24 times the text height.
    fn max_text_width(&self) -> f64 {
        let text = f64::from(self.text);
        (self.area.0 * 0.5).clamp(text * 11.0, text * 24.0).min(self.area.0 - 2.0 * self.pad)
    }

    /// Width and height of the label with the text `words`, in pixels.
    fn label(&self, words: &str) -> (f64, f64) {
        (f64::from(font::width(words, self.text)).ceil() + 2.0 * self.pad, f64::from(self.text) + self.pad)
    }

    /// A box in whole pixels, widened and moved so that its frame is visible.
    fn frame(&self, [x0, y0, x1, y1]: [f64; 4]) -> Rect {
        let axis = |from: f64, to: f64, length: f64| {
            let least = (2.0 * self.line + 2.0).min(length);
            let (from, to) = ((from * length).round(), (to * length).round());
            let size = (to - from).max(least);
            let start = (f64::midpoint(from, to) - size / 2.0).floor().clamp(0.0, length - size);
            (start, size)
        };
        let ((x, w), (y, h)) = (axis(x0, x1, self.area.0), axis(y0, y1, self.area.1));
        Rect { x, y, w, h }
    }
}

/// One box to draw.
struct Mark {
    frame: Rect,
    colour: Rgb<u8>,
    words: String,
}

/// All boxes. The first box of every phrase precedes any second box, so that each phrase is named once where there is
/// not enough space for all labels.
fn marks(entities: &[GroundedEntity], measures: &Measures) -> Vec<Mark> {
    let mut assigned = Assigned::default();
    let numbers: Vec<usize> = entities.iter().map(|entity| assigned.number(&entity.phrase)).collect();
    let max_boxes = entities.iter().map(|entity| entity.boxes.len()).max().unwrap_or(0);
    (0..max_boxes)
        .flat_map(|nth| {
            entities
                .iter()
                .zip(&numbers)
                .filter_map(move |(entity, number)| Some((nth, entity, number, entity.boxes.get(nth)?)))
        })
        .filter_map(|(nth, entity, number, one)| {
            let frame = measures.frame(tidy_box(*one)?);
            let words = words(&entity.phrase, entity.score_of(nth), measures.text, measures.max_text_width());
            Some(Mark { frame, colour: Rgb(colour::colour(*number)), words })
        })
        .collect()
}

/// The phrase and its score on one line of at most `max` pixels. If that is too long, the phrase is cut; if almost nothing
/// of the phrase would be left, the score is omitted instead.
pub(super) fn words(phrase: &str, score: Option<f32>, line_height: f32, max: f64) -> String {
    words_with(phrase, score.map(|score| format!("{score:.2}")), line_height, max)
}

/// Like [`words`], with the text of the score.
pub(super) fn words_with(phrase: &str, score: Option<String>, line_height: f32, max: f64) -> String {
    let alone = || font::shorten(phrase, line_height, max as f32);
    let Some(score) = score else { return alone() };
    if phrase.trim().is_empty() {
        return font::shorten(&score, line_height, max as f32);
    }
    let tail = format!(" {score}");
    let short = font::shorten(phrase, line_height, max as f32 - font::width(&tail, line_height));
    let is_legible = !short.ends_with('…') || short.chars().count() > MIN_CUT_LENGTH;
    if is_legible && !short.is_empty() { short + &tail } else { alone() }
}

/// Draws the frame inside the box's edges, between a dark and a light line: one of the two contrasts with any background.
fn draw_frame(canvas: &mut RgbImage, mark: &Mark, measures: &Measures) {
    ring(canvas, grown(&mark.frame, measures.halo), measures.halo, Rgb([0; 3]), 0.6);
    ring(canvas, grown(&mark.frame, -measures.line), measures.halo, Rgb([255; 3]), 0.6);
    ring(canvas, mark.frame, measures.line, mark.colour, 1.0);
}

/// `rect` with each side moved outward by `by`.
fn grown(rect: &Rect, by: f64) -> Rect {
    Rect { x: rect.x - by, y: rect.y - by, w: rect.w + 2.0 * by, h: rect.h + 2.0 * by }
}

/// Paints a strip of width `thick` along the inside of the edges of `rect`, each pixel once.
fn ring(canvas: &mut RgbImage, rect: Rect, thick: f64, colour: Rgb<u8>, alpha: f32) {
    let Rect { x, y, w, h } = rect;
    if w <= 0.0 || h <= 0.0 {
        return;
    }
    let (across, down) = (thick.min(w / 2.0), thick.min(h / 2.0));
    fill(canvas, Rect { h: down, ..rect }, colour, alpha);
    fill(canvas, Rect { y: y + h - down, h: down, ..rect }, colour, alpha);
    let sides = Rect { y: y + down, w: across, h: h - 2.0 * down, x };
    fill(canvas, sides, colour, alpha);
    fill(canvas, Rect { x: x + w - across, ..sides }, colour, alpha);
}

/// Fills the part of `rect` inside the picture.
fn fill(canvas: &mut RgbImage, rect: Rect, colour: Rgb<u8>, alpha: f32) {
    let pixel = |at: f64, end: u32| at.round().clamp(0.0, f64::from(end)) as u32;
    let (w, h) = canvas.dimensions();
    for y in pixel(rect.y, h)..pixel(rect.y + rect.h, h) {
        for x in pixel(rect.x, w)..pixel(rect.x + rect.w, w) {
            let under = canvas.get_pixel_mut(x, y);
            *under = blend(*under, colour, alpha);
        }
    }
}

/// A thin line from a label to its box.
fn draw_leader(canvas: &mut RgbImage, [from, to]: [(f64, f64); 2], colour: Rgb<u8>, measures: &Measures) {
    let thick = (measures.line * 0.6).round().max(1.0);
    let steps = (from.0 - to.0).abs().max((from.1 - to.1).abs()).ceil().max(1.0);
    for (width, colour) in [(thick + 2.0 * measures.halo, Rgb([0; 3])), (thick, colour)] {
        for step in 0..=steps as u32 {
            let along = f64::from(step) / steps;
            let at = |a: f64, b: f64| (a + (b - a) * along - width / 2.0).round();
            fill(canvas, Rect { x: at(from.0, to.0), y: at(from.1, to.1), w: width, h: width }, colour, 1.0);
        }
    }
}

fn draw_label(canvas: &mut RgbImage, label: &Rect, mark: &Mark, measures: &Measures) {
    fill(canvas, *label, mark.colour, 1.0);
    let at = ((label.x + measures.pad) as f32, (label.y + measures.pad / 2.0).floor() as f32);
    font::draw(canvas, &mark.words, measures.text, at, Rgb(colour::ink(mark.colour.0)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(phrase: &str, boxes: &[[f64; 4]]) -> GroundedEntity {
        GroundedEntity { phrase: phrase.into(), boxes: boxes.to_vec(), ..GroundedEntity::default() }
    }

    #[test]
    fn the_outline_has_the_phrases_colour_and_the_inside_is_untouched() {
        let grey = RgbImage::from_pixel(1000, 800, Rgb([90; 3]));
        let drawn = draw(
            &grey,
            &[
                entity("a fox", &[[0.2, 0.25, 0.6, 0.75], [0.7, 0.5, 0.9, 1.0]]),
                entity("a hen", &[[0.0, 0.0, 0.1, 0.2]]),
            ],
        );
        assert_eq!(drawn.dimensions(), grey.dimensions());
        let at = |x, y| drawn.get_pixel(x, y).0;
        let (fox, hen) = (colour::colour(0), colour::colour(1));
        for (x, y) in [(200, 300), (400, 200), (599, 400), (400, 599), (201, 599)] {
            assert_eq!(at(x, y), fox, "first box at {x},{y}");
        }
        for (x, y) in [(700, 600), (899, 600), (800, 799)] {
            assert_eq!(at(x, y), fox, "second box at {x},{y}");
        }
        assert_eq!([at(0, 100), at(99, 100), at(50, 159)], [hen; 3]);
        assert_eq!([at(400, 400), at(300, 700), at(950, 100)], [[90; 3]; 3]);
        assert!(at(199, 400)[0] < 90 && at(204, 400)[0] > 90, "a dark rim outside, a light one inside");
    }

    #[test]
    fn small_pictures_grow_and_large_ones_keep_their_size() {
        let fox = [entity("a fox", &[[0.1, 0.1, 0.9, 0.9]])];
        for (from, to) in
            [((97, 61), (679, 427)), ((640, 480), (640, 480)), ((1, 1), (640, 640)), ((639, 1), (1278, 2))]
        {
            assert_eq!(draw(&RgbImage::new(from.0, from.1), &fox).dimensions(), to);
        }
        assert_eq!(draw(&RgbImage::new(0, 0), &fox).dimensions(), (0, 0));
    }

    #[test]
    fn odd_input_is_drawn_as_well_as_can_be() {
        let black = RgbImage::new(700, 500);
        let drawn = draw(&black, &[entity("reversed", &[[0.8, 0.9, 0.2, 0.1]])]);
        assert_eq!(drawn, draw(&black, &[entity("reversed", &[[0.2, 0.1, 0.8, 0.9]])]));
        assert_eq!(draw(&black, &[entity("no number", &[[f64::NAN, 0.0, 1.0, 1.0]])]), black);
        let odd = ["", " ", "\u{0}\n\t", "🧊雪だるま", &"long ".repeat(5000)];
        let boxes = [[0.5, 0.5, 0.5, 0.5], [-9.0, -9.0, 9.0, 9.0], [f64::NEG_INFINITY, 1.0, f64::INFINITY, 1.0]];
        for phrase in odd {
            for size in [(700, 500), (3, 900), (900, 3)] {
                assert_ne!(
                    draw(&RgbImage::new(size.0, size.1), &[entity(phrase, &boxes)]),
                    RgbImage::new(size.0, size.1)
                );
            }
        }
    }

    #[test]
    fn a_point_still_has_a_visible_frame() {
        let drawn = draw(&RgbImage::new(800, 800), &[entity("a fly", &[[1.0, 1.0, 1.0, 1.0]])]);
        assert_eq!(drawn.get_pixel(799, 799).0, colour::colour(0));
    }

    #[test]
    fn a_cut_phrase_keeps_its_score() {
        let line = words(&"a very tall water tower ".repeat(3), Some(0.876), 20.0, 200.0);
        assert!(line.starts_with("a very") && line.ends_with("… 0.88"), "{line}");
        assert_eq!(words("", Some(0.5), 20.0, 200.0), "0.50");
        assert_eq!(words("a fox", None, 20.0, 200.0), "a fox");
        assert_eq!(words("a fox", Some(0.5), 20.0, 65.0), "a fox");
        assert!(f64::from(font::width(&words("a fox", Some(0.5), 20.0, 15.0), 20.0)) <= 15.0);
    }
}
