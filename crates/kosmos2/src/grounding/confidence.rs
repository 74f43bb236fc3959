//! How sure the model was of phrases and boxes, which the reference does not tell.

use std::ops::Range;

use super::corner::CornerEstimate;
use super::grid::{BoundingBox, Cell, box_between};
use super::markup::Entity;
use crate::options::ScoredEntity;

/// What is known of a generated token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenEvidence {
    /// Its natural-log probability.
    pub logprob: f32,
    /// Where the corner lies that it names, if it is a patch token.
    pub corner: Option<CornerEstimate>,
}

/// Puts scores on entities.
///
/// A score is exp of the mean natural-log probability of the tokens in question, so a geometric mean in 0..=1: for a
/// phrase, the generated tokens that any of its characters came from (its tags left out); for a box, its two patch
/// tokens. Where all of these stood in the prompt there is nothing to score: `None`.
///
/// `offset` is where the text that the entities were read from starts within the decoded text that `token_ranges`
/// (bytes, one range a token, in order) count on; `tokens` has an entry a token, `None` for those of the prompt.
pub fn score(
    entities: Vec<Entity>,
    offset: usize,
    token_ranges: &[Range<usize>],
    tokens: &[Option<TokenEvidence>],
) -> Vec<ScoredEntity> {
    let evidence = |source: &Range<usize>| -> Vec<TokenEvidence> {
        let (start, end) = (source.start + offset, source.end + offset);
        let first = token_ranges.partition_point(|range| range.end <= start);
        let within = token_ranges.iter().zip(tokens).skip(first).take_while(|(range, _)| range.start < end);
        within.filter(|(range, _)| !range.is_empty()).filter_map(|(_, token)| *token).collect()
    };
    let over = |source: &Range<usize>| mean_probability(evidence(source).iter().map(|token| token.logprob));
    let scored = |entity: Entity| ScoredEntity {
        score: entity.phrase_source.as_ref().and_then(over),
        box_scores: entity.box_sources.iter().map(over).collect(),
        refined_boxes: entity.box_sources.iter().map(|source| refined_box(&evidence(source))).collect(),
        phrase: entity.phrase,
        span: entity.span,
        boxes: entity.boxes,
    };
    entities.into_iter().map(scored).collect()
}

/// The box between the two corners' expected cells, by the same rule as for chosen ones. Cells that are one row or
/// column of the grid can be told apart here, so their box has no need to be widened to full cells unless it is flat.
fn refined_box(tokens: &[TokenEvidence]) -> Option<BoundingBox> {
    let corners: Vec<CornerEstimate> = tokens.iter().filter_map(|token| token.corner).collect();
    let [first, last] = corners[..] else { return None };
    let cell = |corner: CornerEstimate| Cell { column: corner.column.into(), row: corner.row.into() };
    Some(box_between(cell(first), cell(last)))
}

fn mean_probability(logprobs: impl Iterator<Item = f32>) -> Option<f32> {
    let (sum, count) = logprobs.fold((0.0, 0), |(sum, count), logprob| (sum + logprob, count + 1));
    // A probability of one can come out a rounding step above it.
    (count > 0).then(|| (sum / count as f32).exp().min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grounding::markup;

    #[test]
    fn a_score_is_the_geometric_mean_over_the_generated_tokens() {
        let pieces = [
            "x ",
            "<phrase>",
            " a",
            " dog",
            "</phrase>",
            "<object>",
            "<patch_index_0001>",
            "<patch_index_0100>",
            "</object>",
        ];
        let probability = [None, None, None, Some(0.25f32), Some(0.9), Some(0.9), Some(0.5), Some(0.125), Some(0.9)];
        let mut text = String::from("</image>");
        let mut ranges = vec![];
        for piece in pieces {
            ranges.push(text.len()..text.len() + piece.len());
            text.push_str(piece);
        }
        let logprobs: Vec<_> =
            probability.iter().map(|p| p.map(|p| TokenEvidence { logprob: p.ln(), corner: None })).collect();
        let raw = markup::caption(&text);
        let scored = score(markup::read(raw).entities, text.len() - raw.len(), &ranges, &logprobs);
        assert_eq!(scored[0].phrase, "a dog");
        assert!((scored[0].score.unwrap() - 0.25).abs() < 1e-6);
        assert!((scored[0].box_scores[0].unwrap() - 0.25).abs() < 1e-6);
        let known_before = score(markup::read(raw).entities, text.len() - raw.len(), &ranges, &[None; 9]);
        assert_eq!((known_before[0].score, &known_before[0].box_scores[..]), (None, &[None][..]));
    }
}
