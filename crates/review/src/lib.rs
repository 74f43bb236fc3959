//! Annotations for reviewers: [`draw`] draws boxes into a picture, [`page()`] makes one HTML file of many pictures.
//!
//! The crate takes plain data, so it depends neither on the model nor on the message broker.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod card;
mod colour;
mod draw;
mod font;
mod html;
mod layer;
mod page;
mod picture;
mod place;
mod spans;

pub use draw::draw;
pub use page::{Page, PageItem, page};
pub use picture::{Picture, PictureError};

/// A phrase tied to places in the picture.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Labelled {
    /// The phrase as the model said it.
    pub phrase: String,
    /// Boxes `[x0, y0, x1, y1]` as fractions of the picture, 0 at its left and top. Reversed corners are swapped and
    /// corners outside are moved to the rim for drawing; a box with a coordinate that is no number is not drawn.
    pub boxes: Vec<[f64; 4]>,
    /// Start and end of the phrase in Unicode code points of the text. A span that names no part of the text (negative,
    /// reversed, empty or past the end) is shown without highlighting.
    pub span: (i64, i64),
    /// Confidence in the phrase, 0 to 1, where known.
    pub score: Option<f32>,
    /// Confidence in each box, 0 to 1, in the order of `boxes`; a missing tail counts as unknown.
    pub box_scores: Vec<Option<f32>>,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Finish {
    /// The model ended it.
    #[default]
    Stop,
    /// The limit of tokens cut it.
    Length,
}

/// What the model said about one picture on one prompt.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Annotated {
    /// What the picture is called for people: a file name or an address.
    pub name: String,
    /// The prompt as given to the model.
    pub prompt: String,
    /// The clean text, the one the spans count in.
    pub text: String,
    /// The text with the model's tags.
    pub raw_text: String,
    /// Why the text ended.
    pub finish_reason: Finish,
    /// The grounded phrases, in reading order.
    pub entities: Vec<Labelled>,
}

impl Labelled {
    /// The best score known for box `index`: its own, else the phrase's.
    fn score_of(&self, index: usize) -> Option<f32> {
        let own = self.box_scores.get(index).copied().flatten();
        own.or(self.score).filter(|score| score.is_finite())
    }
}

/// Corners in order and inside the picture; `None` where a coordinate is not a number.
fn tidy_box([x0, y0, x1, y1]: [f64; 4]) -> Option<[f64; 4]> {
    if [x0, y0, x1, y1].iter().any(|c| c.is_nan()) {
        return None;
    }
    let inside = |c: f64| c.clamp(0.0, 1.0);
    Some([inside(x0.min(x1)), inside(y0.min(y1)), inside(x0.max(x1)), inside(y0.max(y1))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_boxes_become_drawable_or_nothing() {
        assert_eq!(tidy_box([0.8, 0.9, 0.2, 0.1]), Some([0.2, 0.1, 0.8, 0.9]));
        assert_eq!(tidy_box([-3.0, 0.5, f64::INFINITY, 2.0]), Some([0.0, 0.5, 1.0, 1.0]));
        assert_eq!(tidy_box([0.0, f64::NAN, 1.0, 1.0]), None);
    }

    #[test]
    fn a_box_without_a_score_takes_the_phrases() {
        let entity =
            Labelled { score: Some(0.5), box_scores: vec![Some(0.9), None, Some(f32::NAN)], ..Labelled::default() };
        assert_eq!([0, 1, 7].map(|i| entity.score_of(i)), [Some(0.9), Some(0.5), Some(0.5)]);
        assert_eq!(entity.score_of(2), None);
    }
}
