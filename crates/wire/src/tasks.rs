//! Checks of tasks that need no model.

use crate::v1;
use crate::v1::task;

/// Maximum bytes of a text for the model: 32 for each of its 2048 positions. Its longest tokens, the tags, have 18 bytes,
/// so a longer text cannot fit.
const MAX_TEXT_BYTES: usize = 64 << 10;
/// Maximum number of boxes of a task, and of phrases with boxes: a box takes two of the model's 2048 positions.
const MAX_BOXES: usize = 1024;

/// Checks the kind of the task named `at` in sentences. Adds one sentence to `problems` for each broken rule, and returns
/// the kind if there is none.
pub(crate) fn check<'a>(at: &str, kind: Option<&'a task::Kind>, problems: &mut Vec<String>) -> Option<&'a task::Kind> {
    let before = problems.len();
    match kind {
        None => problems.push(format!("{at} has no known kind: set one, for example brief_caption")),
        Some(kind) => check_sizes(at, kind, problems),
    }
    kind.filter(|_| problems.len() == before)
}

/// Checks the sizes of texts and boxes, before anything else looks at them or quotes them.
fn check_sizes(at: &str, kind: &task::Kind, problems: &mut Vec<String>) {
    let no_boxes: &[v1::PhraseBoxes] = &[];
    let (field, text, phrases) = match kind {
        task::Kind::BriefCaption(_) | task::Kind::DetailedCaption(_) => return,
        task::Kind::Question(question) => ("question", question.question.as_str(), no_boxes),
        task::Kind::PhraseGrounding(grounding) => ("phrase", grounding.phrase.as_str(), no_boxes),
        task::Kind::ReferringExpressionComprehension(comprehension) => {
            ("expression", comprehension.expression.as_str(), no_boxes)
        }
        task::Kind::ReferringExpressionGeneration(generation) => {
            return check_boxes(at, generation.boxes.len(), 0, problems);
        }
        task::Kind::Raw(raw) => ("text", raw.text.as_str(), &raw.phrase_boxes[..]),
        task::Kind::TextScoring(scoring) => {
            check_text(at, "prompt", &scoring.prompt, problems);
            let Some(raw) = &scoring.text else { return };
            ("text.text", raw.text.as_str(), &raw.phrase_boxes[..])
        }
    };
    check_text(at, field, text, problems);
    check_boxes(at, phrases.iter().map(|phrase| phrase.boxes.len()).sum(), phrases.len(), problems);
}

fn check_text(at: &str, field: &str, text: &str, problems: &mut Vec<String>) {
    if text.len() > MAX_TEXT_BYTES {
        problems.push(format!("{at}.{field} has {} bytes, more than {MAX_TEXT_BYTES}: shorten it", text.len()));
    }
}

fn check_boxes(at: &str, boxes: usize, phrases: usize, problems: &mut Vec<String>) {
    for (what, count) in [("boxes", boxes), ("phrases with boxes", phrases)] {
        if count > MAX_BOXES {
            problems.push(format!("{at} has {count} {what}, more than {MAX_BOXES}"));
        }
    }
}
