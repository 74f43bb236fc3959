//! The annotations that the crate draws and shows.

use crate::picture::Picture;

/// What a page shows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// The page's title and heading.
    pub title: String,
    /// The pictures, in the order in which they are shown.
    pub items: Vec<PageItem>,
    /// Lets the reader mark each box right or wrong.
    pub spot_check: Option<SpotCheck>,
    /// The jobs without an annotation, shown below the pictures.
    pub failures: Vec<FailedItem>,
}

/// What the marks of a page are stored under, and what they are about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpotCheck {
    /// The same for the same pictures: a page that is made again has the marks of the one before.
    pub page_id: String,
    /// The dataset.
    pub dataset: String,
}

/// A job that ended without an annotation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FailedItem {
    /// The picture, if it can be shown.
    pub picture: Option<Picture>,
    /// The object's address, or the job's id.
    pub name: String,
    /// The kind of failure, as a token.
    pub reason: String,
    /// What went wrong, in one sentence.
    pub message: String,
    /// When it failed, and other facts, in the order in which they are shown.
    pub facts: Vec<(&'static str, String)>,
}

/// A picture and its annotations.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PageItem {
    /// The annotation's id, which the marks of its boxes carry. Empty if there is none: its boxes cannot be marked.
    pub annotation_id: String,
    /// The picture. Without one, the boxes are shown on an empty background.
    pub picture: Option<Picture>,
    /// One annotation for each prompt. The first one's name is the heading, and its text is the picture's alternative
    /// text.
    pub annotations: Vec<TaskAnswer>,
}

/// What the model answered to one prompt about a picture.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TaskAnswer {
    /// The picture's name for people: a file name or an address.
    pub name: String,
    /// The task's id, which the marks of its boxes carry.
    pub task_id: String,
    /// The prompt as given to the model.
    pub prompt: String,
    /// The text without markup. Spans refer to it.
    pub text: String,
    /// The text with the model's markup.
    pub raw_text: String,
    /// Why the text ended.
    pub finish_reason: Finish,
    /// The phrases with boxes, in reading order.
    pub entities: Vec<GroundedEntity>,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Finish {
    /// The model ended it.
    #[default]
    Stop,
    /// It reached the maximum number of tokens.
    Length,
}

/// A phrase and its boxes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GroundedEntity {
    /// The phrase as the model generated it.
    pub phrase: String,
    /// Boxes `[x0, y0, x1, y1]` as fractions of the picture, with the origin at its top left. For drawing, reversed
    /// corners are swapped and corners outside the picture are clamped to its edges; a box with a NaN is not drawn.
    pub boxes: Vec<[f64; 4]>,
    /// Start and end of the phrase in the text, in Unicode code points. If the span is not a part of the text (negative,
    /// reversed, empty or beyond the end), the phrase is shown below the text.
    pub span: (i64, i64),
    /// The phrase's score, from 0 to 1; `None` if unknown.
    pub score: Option<f32>,
    /// The score of each box, from 0 to 1, in the order of `boxes`. Missing entries count as unknown.
    pub box_scores: Vec<Option<f32>>,
}

/// What a score is the score of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Score {
    Box(f32),
    Phrase(f32),
}

impl GroundedEntity {
    /// The score of box `index`, or if it has none or one that is no number, that of the phrase.
    pub(super) fn named_score_of(&self, index: usize) -> Option<Score> {
        let known = |score: Option<f32>| score.filter(|score| score.is_finite());
        let own = known(self.box_scores.get(index).copied().flatten()).map(Score::Box);
        own.or(known(self.score).map(Score::Phrase))
    }

    /// The number of [`GroundedEntity::named_score_of`].
    pub(super) fn score_of(&self, index: usize) -> Option<f32> {
        self.named_score_of(index).map(|(Score::Box(score) | Score::Phrase(score))| score)
    }
}

/// The box with its corners in order and clamped to the picture; `None` if a coordinate is NaN.
pub(super) fn tidy_box([x0, y0, x1, y1]: [f64; 4]) -> Option<[f64; 4]> {
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
        let entity = GroundedEntity {
            score: Some(0.5),
            box_scores: vec![Some(0.9), None, Some(f32::NAN)],
            ..GroundedEntity::default()
        };
        assert_eq!([0, 1, 2, 7].map(|i| entity.score_of(i)), [Some(0.9), Some(0.5), Some(0.5), Some(0.5)]);
    }
}
