//! Confidence scores of phrases and boxes, which the reference does not have.

use std::ops::Range;

use super::corner::CornerEstimate;
use super::grid::{BoundingBox, Cell, box_between};
use super::markup::Entity;
use crate::options::ScoredEntity;

/// Probability and corner of a generated token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TokenEvidence {
    /// Its natural-log probability.
    pub(crate) logprob: f32,
    /// The estimated corner, if it is a patch token.
    pub(crate) corner: Option<CornerEstimate>,
}

/// Adds scores to entities.
///
/// A score is exp of the mean natural-log probability of its tokens, which is the geometric mean of their
/// probabilities. The tokens of a phrase are the generated tokens of its text without tags, those of a box are its two
/// patch tokens. The score is `None` if they are all part of the prompt.
///
/// `token_ranges` has the byte range of each token in the decoded text, in order, and `offset` is where the text that
/// the entities were parsed from starts in it. `tokens` has one entry for each token, `None` for those of the prompt.
pub(crate) fn score(
    entities: Vec<Entity>,
    offset: usize,
    token_ranges: &[Range<usize>],
    tokens: &[Option<TokenEvidence>],
) -> Vec<ScoredEntity> {
    let evidence = |source: &Range<usize>| -> Vec<TokenEvidence> {
        let (start, end) = (source.start + offset, source.end + offset);
        let first = token_ranges.partition_point(|range| range.end <= start);
        let overlapping = token_ranges.iter().zip(tokens).skip(first).take_while(|(range, _)| range.start < end);
        overlapping.filter(|(range, _)| !range.is_empty()).filter_map(|(_, token)| *token).collect()
    };
    let score = |source: &Range<usize>| mean_probability(evidence(source).iter().map(|token| token.logprob));
    let scored = |entity: Entity| ScoredEntity {
        score: entity.phrase_source.as_ref().and_then(score),
        box_scores: entity.box_sources.iter().map(score).collect(),
        refined_boxes: entity.box_sources.iter().map(|source| refined_box(&evidence(source))).collect(),
        phrase: entity.phrase,
        span: entity.span,
        boxes: entity.boxes,
    };
    entities.into_iter().map(scored).collect()
}

/// The box between the two estimated corners, by the same rule as for whole cells.
fn refined_box(tokens: &[TokenEvidence]) -> Option<BoundingBox> {
    let corners: Vec<CornerEstimate> = tokens.iter().filter_map(|token| token.corner).collect();
    let [first, last] = corners[..] else { return None };
    let cell = |corner: CornerEstimate| Cell { column: corner.column.into(), row: corner.row.into() };
    Some(box_between(cell(first), cell(last)))
}

fn mean_probability(logprobs: impl Iterator<Item = f32>) -> Option<f32> {
    let (sum, count) = logprobs.fold((0.0, 0), |(sum, count), logprob| (sum + logprob, count + 1));
    // Rounding can make a probability slightly larger than one.
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
        let scored = score(markup::parse(raw).entities, text.len() - raw.len(), &ranges, &logprobs);
        assert_eq!(scored[0].phrase, "a dog");
        assert!((scored[0].score.unwrap() - 0.25).abs() < 1e-6);
        assert!((scored[0].box_scores[0].unwrap() - 0.25).abs() < 1e-6);
        let of_prompt = score(markup::parse(raw).entities, text.len() - raw.len(), &ranges, &[None; 9]);
        assert_eq!((of_prompt[0].score, &of_prompt[0].box_scores[..]), (None, &[None][..]));
    }
}
