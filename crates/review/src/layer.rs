//! The boxes and labels that lie over a picture of the page, as SVG.

use crate::card::Entity;
use crate::draw::words;
use crate::html::Text;
use crate::place::{Placed, Rect, Wanted, place};
use crate::{font, tidy_box};
use std::fmt::{Display, Formatter, Result};

/// The frame that pictures of the grid appear in, in CSS pixels (`.stage` in page.css): sizes the labels.
const STAGE: (f64, f64) = (400.0, 300.0);

/// Line height of a label in CSS pixels, where the picture has the size above.
const LINE: f64 = 14.0;

/// The share of the picture that labels may cover. The others appear when their box or phrase is pointed at.
const COVERED: f64 = 0.25;

/// What one annotation puts over its picture, in units of the picture's pixels.
pub(super) struct Layer<'a> {
    frames: Vec<Frame<'a>>,
    area: (f64, f64),
    line: f64,
    pad: f64,
}

/// One box.
struct Frame<'a> {
    of: &'a Entity<'a>,
    rect: Rect,
    score: Option<f32>,
    words: String,
    /// Among the boxes of its phrase.
    nth: usize,
}

impl<'a> Layer<'a> {
    /// The boxes of `entities` over a picture of `size` pixels.
    pub(super) fn new(entities: &'a [Entity<'a>], size: (u32, u32)) -> Self {
        let area = (f64::from(size.0), f64::from(size.1));
        let line = LINE / (STAGE.0 / area.0).min(STAGE.1 / area.1);
        let pad = line * 0.25;
        let most = (area.0 * 0.6).max(line * 8.0).min(area.0 - 2.0 * pad);
        let framed = |of: &'a Entity<'a>, nth: usize, raw: &[f64; 4]| {
            let [x0, y0, x1, y1] = tidy_box(*raw)?;
            let rect = Rect { x: x0 * area.0, y: y0 * area.1, w: (x1 - x0) * area.0, h: (y1 - y0) * area.1 };
            let score = of.entity.score_of(nth);
            Some(Frame { of, rect, score, words: words(&of.entity.phrase, score, line as f32, most), nth })
        };
        let framed =
            |of: &'a Entity<'a>| of.entity.boxes.iter().enumerate().filter_map(move |(nth, raw)| framed(of, nth, raw));
        let mut frames: Vec<Frame<'a>> = entities.iter().flat_map(framed).collect();
        // The first box of every phrase gets its label first.
        frames.sort_by_key(|frame| frame.nth);
        Self { frames, area, line, pad }
    }

    /// The labels that are always seen, then those that wait.
    fn labels(&self) -> [Vec<(&Frame<'a>, Placed)>; 2] {
        let wanted = |frame: &Frame<'a>| {
            let length = f64::from(font::width(&frame.words, self.line as f32));
            Wanted { target: frame.rect, size: (length + 2.0 * self.pad, self.line * 1.2) }
        };
        let mut left = COVERED * self.area.0 * self.area.1;
        let (now, later): (Vec<&Frame<'a>>, Vec<_>) =
            self.frames.iter().filter(|frame| !frame.words.is_empty()).partition(|frame| {
                let (w, h) = wanted(frame).size;
                left -= w * h;
                left >= 0.0
            });
        let places = place(self.area, &now.iter().map(|frame| wanted(frame)).collect::<Vec<_>>());
        let (mut seen, mut waiting) = (Vec::new(), later);
        for (frame, placed) in now.into_iter().zip(places) {
            match placed {
                Some(placed) => seen.push((frame, placed)),
                None => waiting.push(frame),
            }
        }
        // One that waits is seen alone, so it need not keep clear of the others.
        let alone = waiting.into_iter().filter_map(|frame| Some((frame, place(self.area, &[wanted(frame)]).pop()??)));
        [seen, alone.collect()]
    }

    /// One box. It is named for those who cannot see it.
    fn frame(f: &mut Formatter<'_>, frame: &Frame<'_>) -> Result {
        let Entity { entity, id, colour } = frame.of;
        let score = frame.score.map(|score| format!(", score {score:.2}")).unwrap_or_default();
        let Rect { x, y, w, h } = frame.rect;
        let shape = format!(r#"x="{x:.1}" y="{y:.1}" width="{w:.1}" height="{h:.1}""#);
        writeln!(
            f,
            r#"<g class="box c{colour}" data-e="{id}" tabindex="0" role="img" aria-label="{}{score}"><rect class="rim" {shape}/><rect class="glow" {shape}/><rect class="line" {shape}/></g>"#,
            Text(&entity.phrase)
        )
    }

    /// One label. Its text is stretched to the length measured here, whatever font the reader's browser has.
    fn label(&self, f: &mut Formatter<'_>, frame: &Frame<'_>, placed: &Placed, class: &str) -> Result {
        let Entity { id, colour, .. } = frame.of;
        write!(f, r#"<g class="{class} c{colour}" data-e="{id}" aria-hidden="true">"#)?;
        if let Some([from, to]) = placed.leader {
            write!(f, r#"<path d="M{:.1} {:.1}L{:.1} {:.1}"/>"#, from.0, from.1, to.0, to.1)?;
        }
        let Rect { x, y, w, h } = placed.label;
        let em = font::em(self.line as f32);
        let corner = corner(&placed.label, &frame.rect);
        let (tx, ty, length) = (x + self.pad, y + h * 0.76, w - 2.0 * self.pad);
        writeln!(
            f,
            r#"<g class="{corner}"><rect x="{x:.1}" y="{y:.1}" width="{w:.1}" height="{h:.1}"/><text x="{tx:.1}" y="{ty:.1}" font-size="{em:.1}" textLength="{length:.1}" lengthAdjust="spacingAndGlyphs">{}</text></g></g>"#,
            Text(&frame.words)
        )
    }
}

/// The corner by which a label holds on to its box: in an enlarged picture labels shrink towards it (page.css).
fn corner(label: &Rect, target: &Rect) -> &'static str {
    // The edges are compared with a thousandth of slack: they come from sums.
    let slack = label.h * 1e-3;
    let above = label.y + label.h <= target.y + slack;
    let rightward = label.x + slack >= target.x;
    match (above, rightward) {
        (true, true) => "sw",
        (true, false) => "se",
        (false, true) => "nw",
        (false, false) => "ne",
    }
}

impl Display for Layer<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        // The largest box first: a smaller one inside it can still be pointed at.
        let mut by_size: Vec<&Frame<'_>> = self.frames.iter().collect();
        by_size.sort_by(|a, b| (b.rect.w * b.rect.h).total_cmp(&(a.rect.w * a.rect.h)));
        for frame in by_size {
            Self::frame(f, frame)?;
        }
        for (labels, class) in self.labels().iter().zip(["tag", "tag waits"]) {
            for (frame, placed) in labels {
                self.label(f, frame, placed, class)?;
            }
        }
        Ok(())
    }
}
