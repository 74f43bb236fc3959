//! Boxes in prompts.

use serde_json::Value;

use super::error::PromptError;
use super::tags;
use crate::grounding::grid::{GRID_CELLS, patches_of};

/// The boxes of one phrase.
pub type PhraseBoxes = Vec<PromptBox>;

/// A box in a prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PromptBox {
    /// Patch indices of the upper left and the lower right cell, 0 to 1023.
    Patches(i64, i64),
    /// `[x0, y0, x1, y1]` in fractions of the picture's width and height, 0 to 1.
    Fractions([f64; 4]),
}

impl PromptBox {
    /// Checks that the box is within the picture. Encoding a prompt does not check this, as in the reference, where an
    /// unknown patch index becomes ordinary text.
    ///
    /// # Errors
    /// [`PromptError::PatchRange`] if a patch index is not in the grid, [`PromptError::FractionRange`] if fractions are
    /// not in 0..=1 or out of order.
    pub fn check(&self) -> Result<(), PromptError> {
        match *self {
            Self::Patches(upper_left, lower_right) => {
                let cells = 0..i64::from(GRID_CELLS);
                let is_inside = cells.contains(&upper_left) && cells.contains(&lower_right);
                if is_inside { Ok(()) } else { Err(PromptError::PatchRange(upper_left, lower_right)) }
            }
            Self::Fractions([x0, y0, x1, y1]) => {
                // False for NaN.
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

/// Number of `<phrase>…</phrase>` in a text.
pub(super) fn count_phrases(text: &str) -> usize {
    phrase_ends(text).len()
}

/// Inserts the boxes of each phrase after it.
///
/// # Errors
/// [`PromptError::BoxCount`] if the number of entries differs from the number of phrases, [`PromptError::BoxCorners`]
/// if fractions are out of order.
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

/// The markup of boxes. The blanks are the reference's; the tokenizer drops them before tags.
fn object(boxes: &[PromptBox]) -> Result<String, PromptError> {
    let pair = |prompt_box: &PromptBox| {
        let (upper_left, lower_right) = prompt_box.patches()?;
        Ok(format!("{} {}", tags::patch(upper_left), tags::patch(lower_right)))
    };
    let pairs = boxes.iter().map(pair).collect::<Result<Vec<_>, PromptError>>()?;
    Ok(format!("{} {} {}", tags::OBJECT_OPEN, pairs.join(&format!(" {} ", tags::DELIMITER)), tags::OBJECT_CLOSE))
}

/// The end of each `<phrase>…</phrase>`: that of the nearest end tag on the same line, after at least one character.
fn phrase_ends(text: &str) -> Vec<usize> {
    let (mut ends, mut from) = (Vec::new(), 0);
    while let Some(open) = text[from..].find(tags::PHRASE_OPEN).map(|at| from + at) {
        let start = open + tags::PHRASE_OPEN.len();
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        // The first character is part of the phrase, even if an end tag starts there.
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

/// Parses boxes in JSON; null is `None`.
///
/// # Errors
/// [`PromptError::BoxJson`] if the JSON is malformed or not a list, [`PromptError::BoxForm`] if a box has another form.
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
        // Whole numbers are not fractions, as in the reference: `[0, 0, 1, 1]` is probably a mistake.
        corners if corners.len() == 4 && corners.iter().all(Value::is_f64) => {
            let corners: Vec<f64> = corners.iter().filter_map(Value::as_f64).collect();
            corners.try_into().ok().map(PromptBox::Fractions)
        }
        _ => None,
    };
    parsed.ok_or_else(|| PromptError::BoxForm(value.to_string()))
}
