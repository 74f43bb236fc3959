//! The boxes and labels over a picture of the page, as SVG.

use maud::{Markup, Render, html};

use crate::annotation::{Score, tidy_box};
use crate::draw::words_with;
use crate::entity::Entity;
use crate::font;
use crate::html::Text;
use crate::place::{LabelRequest, PlacedLabel, Rect, place, place_sparing};

/// The size at which the grid shows pictures, in CSS pixels (`.stage` in page.css). Label sizes are derived from it.
const STAGE: (f64, f64) = (400.0, 300.0);

/// A label's line height in CSS pixels at that size.
const LINE: f64 = 14.0;

/// The fraction of the picture that visible labels may cover. The others appear when their box or phrase is hovered.
const COVERED: f64 = 0.25;

/// The boxes and labels of one annotation, in pixels of the picture.
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
    score: Option<Score>,
    words: String,
    /// Index among the boxes of its phrase.
    nth: usize,
}

impl<'a> Layer<'a> {
    /// The boxes of `entities` over a picture of `size` pixels.
    pub(super) fn new(entities: &'a [Entity<'a>], size: (u32, u32)) -> Self {
        let area = (f64::from(size.0), f64::from(size.1));
        let line = LINE / (STAGE.0 / area.0).min(STAGE.1 / area.1);
        let pad = line * 0.25;
        let max = (area.0 * 0.6).max(line * 8.0).min(area.0 - 2.0 * pad);
        let framed = |of: &'a Entity<'a>, nth: usize, raw: &[f64; 4]| {
            let [x0, y0, x1, y1] = tidy_box(*raw)?;
            let rect = Rect { x: x0 * area.0, y: y0 * area.1, w: (x1 - x0) * area.0, h: (y1 - y0) * area.1 };
            let score = of.entity.named_score_of(nth);
            let shown = score.map(|score| match score {
                Score::Box(score) => format!("(box {score:.2})"),
                Score::Phrase(score) => format!("(phrase {score:.2})"),
            });
            Some(Frame { of, rect, score, words: words_with(&of.entity.phrase, shown, line as f32, max), nth })
        };
        let framed =
            |of: &'a Entity<'a>| of.entity.boxes.iter().enumerate().filter_map(move |(nth, raw)| framed(of, nth, raw));
        let mut frames: Vec<Frame<'a>> = entities.iter().flat_map(framed).collect();
        // The first box of every phrase gets its label first.
        frames.sort_by_key(|frame| frame.nth);
        Self { frames, area, line, pad }
    }

    /// The labels that are always visible, then those that are hidden until hovered.
    fn labels(&self) -> [Vec<(&Frame<'a>, PlacedLabel)>; 2] {
        let request = |frame: &Frame<'a>| {
            let length = f64::from(font::width(&frame.words, self.line as f32));
            LabelRequest { target: frame.rect, size: (length + 2.0 * self.pad, self.line * 1.2) }
        };
        let mut left = COVERED * self.area.0 * self.area.1;
        let (fitting, rest): (Vec<&Frame<'a>>, Vec<_>) =
            self.frames.iter().filter(|frame| !frame.words.is_empty()).partition(|frame| {
                let (w, h) = request(frame).size;
                left -= w * h;
                left >= 0.0
            });
        let boxes: Vec<Rect> = self.frames.iter().map(|frame| frame.rect).collect();
        let requests: Vec<_> = fitting.iter().map(|frame| request(frame)).collect();
        let places = place_sparing(self.area, &requests, &boxes);
        let (mut visible, mut hidden) = (Vec::new(), rest);
        for (frame, placed) in fitting.into_iter().zip(places) {
            match placed {
                Some(placed) => visible.push((frame, placed)),
                None => hidden.push(frame),
            }
        }
        // A hidden label is shown alone, so it may overlap others, but it does not hide its own box if it can avoid that.
        let alone = |frame: &Frame<'a>| {
            let wanted = [request(frame)];
            let beside = place_sparing(self.area, &wanted, &[frame.rect]).pop().flatten();
            beside.or_else(|| place(self.area, &wanted).pop().flatten())
        };
        let alone = hidden.into_iter().filter_map(|frame| Some((frame, alone(frame)?)));
        [visible, alone.collect()]
    }

    /// The boxes and labels.
    pub(super) fn html(&self) -> Markup {
        // The largest box first: smaller ones inside it can still be pointed at.
        let mut by_size: Vec<&Frame<'_>> = self.frames.iter().collect();
        by_size.sort_by(|a, b| (b.rect.w * b.rect.h).total_cmp(&(a.rect.w * a.rect.h)));
        let [visible, hidden] = self.labels();
        html! {
            @for frame in by_size { (frame.html()) }
            @for (frame, placed) in &visible { (self.label(frame, placed, "tag")) }
            @for (frame, placed) in &hidden { (self.label(frame, placed, "tag waits")) }
        }
    }

    /// One label. Its text is stretched to the length measured here, whatever font the browser has.
    fn label(&self, frame: &Frame<'_>, placed: &PlacedLabel, class: &str) -> Markup {
        let Entity { id, colour, .. } = frame.of;
        let Rect { x, y, w, h } = placed.label;
        let em = font::em(self.line as f32);
        html! {
            g class={ (class) " c" (colour) } data-e=(id) data-b=(frame.id()) aria-hidden="true" {
                @if let Some([from, to]) = placed.leader {
                    path d={ "M" (Tenths(from.0)) " " (Tenths(from.1)) "L" (Tenths(to.0)) " " (Tenths(to.1)) } {}
                }
                g class=(corner(&placed.label, &frame.rect)) {
                    rect x=(Tenths(x)) y=(Tenths(y)) width=(Tenths(w)) height=(Tenths(h)) {}
                    text x=(Tenths(x + self.pad)) y=(Tenths(y + h * 0.76)) font-size=(Tenths(em.into()))
                        textLength=(Tenths(w - 2.0 * self.pad)) lengthAdjust="spacingAndGlyphs" { (Text(&frame.words)) }
                }
            }
        }
    }
}

impl Frame<'_> {
    /// The box's own score, by which the page is filtered and sorted: the shortest text that is read as the same number.
    fn own_score(&self) -> Option<f32> {
        match self.score {
            Some(Score::Box(score)) => Some(score),
            Some(Score::Phrase(_)) | None => None,
        }
    }

    /// Links the box, its label and its row of the spot check within the card.
    fn id(&self) -> String {
        self.of.box_id(self.nth)
    }

    /// The box, with a description for screen readers.
    fn html(&self) -> Markup {
        let Entity { entity, id, colour } = self.of;
        let score = match self.score {
            Some(Score::Box(score)) => format!(", box score {score:.2}"),
            Some(Score::Phrase(score)) => format!(", phrase score {score:.2}"),
            None => String::new(),
        };
        let Rect { x, y, w, h } = self.rect;
        html! {
            g.box.{ "c" (colour) } data-e=(id) data-b=(self.id()) data-score=[self.own_score()]
                data-phrase=(Text(&entity.phrase)) tabindex="0" role="img"
                aria-label={ (Text(&entity.phrase)) (score) } {
                @for part in ["rim", "glow", "line"] {
                    rect class=(part) x=(Tenths(x)) y=(Tenths(y)) width=(Tenths(w)) height=(Tenths(h)) {}
                }
            }
        }
    }
}

/// A coordinate with one decimal.
struct Tenths(f64);

impl Render for Tenths {
    fn render_to(&self, buffer: &mut String) {
        format_args!("{:.1}", self.0).render_to(buffer);
    }
}

/// The corner that a label shares with its box: labels of an enlarged picture shrink towards it (page.css).
fn corner(label: &Rect, target: &Rect) -> &'static str {
    // The edges are sums of floats, so they are compared with a tolerance.
    let tolerance = label.h * 1e-3;
    let above = label.y + label.h <= target.y + tolerance;
    let rightward = label.x + tolerance >= target.x;
    match (above, rightward) {
        (true, true) => "sw",
        (true, false) => "se",
        (false, true) => "nw",
        (false, false) => "ne",
    }
}
