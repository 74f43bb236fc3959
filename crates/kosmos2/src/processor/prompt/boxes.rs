//! Boxes in prompts.

use serde_json::Value;

use super::{PromptError, tags};
use crate::grounding::grid::{GRID_CELLS, patches_of};

/// The boxes of one phrase; empty for a phrase without any.
pub type PhraseBoxes = Vec<PromptBox>;

/// A place in the picture, as a prompt names it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PromptBox {
    /// Patch indices of the upper left and the lower right cell, 0 to 1023.
    Patches(i64, i64),
    /// `[x0, y0, x1, y1]` in fractions of the picture, 0 to 1.
    Fractions([f64; 4]),
}

impl PromptBox {
    /// Checks that the box lies within the picture. Encoding a prompt does not check this, as in the reference, which
    /// makes ordinary text of a patch index that has no token.
    ///
    /// # Errors
    /// [`PromptError::PatchRange`] or [`PromptError::FractionRange`].
    pub fn check(&self) -> Result<(), PromptError> {
        match *self {
            Self::Patches(upper_left, lower_right) => {
                let cells = 0..i64::from(GRID_CELLS);
                let is_inside = cells.contains(&upper_left) && cells.contains(&lower_right);
                if is_inside { Ok(()) } else { Err(PromptError::PatchRange(upper_left, lower_right)) }
            }
            Self::Fractions([x0, y0, x1, y1]) => {
                // False for what is not a number, too.
                let is_inside = 0.0 <= x0 && x0 < x1 && x1 <= 1.0 && 0.0 <= y0 && y0 < y1 && y1 <= 1.0;
                if is_inside { Ok(()) } else { Err(PromptError::FractionRange([x0, y0, x1, y1])) }
            }
        }
    }

    fn patches(&self) -> Result<(i64, i64), PromptError> {
        match *self {
            Self::Patches(upper_left, lower_right) => Ok((upper_left, lower_right)),
            Self::Fractions(corners) => patches_of(corners).ok_or(PromptError::BoxCorners(corners)),
        }
    }
}

/// How many `<phrase>…</phrase>` a text has.
pub(super) fn phrases(text: &str) -> usize {
    phrase_ends(text).len()
}

/// The text with each phrase's boxes written behind it.
pub(super) fn insert(text: &str, boxes: Option<&[PhraseBoxes]>) -> Result<String, PromptError> {
    let Some(boxes) = boxes.filter(|boxes| !boxes.is_empty()) else {
        return Ok(text.to_owned());
    };
    let ends = phrase_ends(text);
    if ends.len() != boxes.len() {
        return Err(PromptError::BoxCount { phrases: ends.len(), entries: boxes.len() });
    }
    let (mut result, mut copied) = (String::with_capacity(text.len() + 64 * boxes.len()), 0);
    for (end, boxes) in ends.into_iter().zip(boxes) {
        result.push_str(&text[copied..end]);
        copied = end;
        if !boxes.is_empty() {
            result.push_str(&object(boxes)?);
        }
    }
    result.push_str(&text[copied..]);
    Ok(result)
}

/// The blanks are the reference's; the tokenizer drops them before tags.
fn object(boxes: &[PromptBox]) -> Result<String, PromptError> {
    let pair = |place: &PromptBox| {
        let (upper_left, lower_right) = place.patches()?;
        Ok(format!("{} {}", tags::patch(upper_left), tags::patch(lower_right)))
    };
    let pairs = boxes.iter().map(pair).collect::<Result<Vec<_>, PromptError>>()?;
    Ok(format!("{} {} {}", tags::OBJECT_OPEN, pairs.join(&format!(" {} ", tags::DELIMITER)), tags::OBJECT_CLOSE))
}

/// Where each `<phrase>…</phrase>` ends: the nearest end tag on the same line, with at least one character between.
fn phrase_ends(text: &str) -> Vec<usize> {
    let (mut ends, mut from) = (Vec::new(), 0);
    while let Some(open) = text[from..].find(tags::PHRASE_OPEN).map(|at| from + at) {
        let start = open + tags::PHRASE_OPEN.len();
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        // The first character belongs to the phrase, even where it begins an end tag.
        let first = text[start..line_end].chars().next().map_or(0, char::len_utf8);
        let close = text[start + first..line_end].find(tags::PHRASE_CLOSE).filter(|_| first > 0);
        from = match close {
            Some(at) => {
                let end = start + first + at + tags::PHRASE_CLOSE.len();
                ends.push(end);
                end
            }
            None => start,
        };
    }
    ends
}

/// Reads the JSON form; null is no boxes at all.
pub(super) fn from_json(json: &str) -> Result<Option<Vec<PhraseBoxes>>, PromptError> {
    let value: Value = serde_json::from_str(json).map_err(|e| PromptError::BoxJson(e.to_string()))?;
    match value {
        Value::Null => Ok(None),
        Value::Array(entries) => entries.iter().map(phrase_boxes).collect::<Result<_, _>>().map(Some),
        other => Err(PromptError::BoxJson(format!("found {other}"))),
    }
}

fn phrase_boxes(entry: &Value) -> Result<PhraseBoxes, PromptError> {
    match entry {
        Value::Null => Ok(Vec::new()),
        Value::Array(parts) if parts.iter().any(Value::is_number) => Ok(vec![one_box(entry)?]),
        Value::Array(boxes) => boxes.iter().map(one_box).collect(),
        other => Err(PromptError::BoxForm(other.to_string())),
    }
}

fn one_box(value: &Value) -> Result<PromptBox, PromptError> {
    let numbers = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let parsed = match numbers {
        [upper_left, lower_right] => {
            upper_left.as_i64().zip(lower_right.as_i64()).map(|(a, b)| PromptBox::Patches(a, b))
        }
        // A whole number is no fraction, as in the reference: `[0, 0, 1, 1]` is more likely a slip than a box.
        corners if corners.len() == 4 && corners.iter().all(Value::is_f64) => {
            let corners: Vec<f64> = corners.iter().filter_map(Value::as_f64).collect();
            corners.try_into().ok().map(PromptBox::Fractions)
        }
        _ => None,
    };
    parsed.ok_or_else(|| PromptError::BoxForm(value.to_string()))
}
