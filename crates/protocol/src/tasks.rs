//! Tasks of the wire as questions to the model.

use kosmos2::Ask;
use kosmos2::generation::GenerationOptions;
use kosmos2::processor::prompt::{Prompt, PromptBox, Task};

use crate::v1;
use crate::v1::{prompt_box, task};

/// Most bytes of a text for the model: 32 for each position that it has, and the longest tokens are its tags with 18.
/// Tokenizing more is work for nothing.
const MAX_TEXT_BYTES: usize = 64 << 10;
/// Most boxes and most phrases with boxes of a task; each box takes two of the model's 2048 positions.
const MAX_BOXES: usize = 1024;

/// What the task at `index` asks. Adds one sentence to `problems` for each broken rule; then there may be nothing.
pub(crate) fn ask(
    index: usize,
    kind: Option<&task::Kind>,
    options: &GenerationOptions,
    problems: &mut Vec<String>,
) -> Option<Ask> {
    let at = format!("tasks[{index}]");
    let Some(kind) = kind else {
        problems.push(format!("{at} does not say what to ask: give one of the tasks, or a raw prompt"));
        return None;
    };
    let before = problems.len();
    check_sizes(&at, kind, problems);
    if problems.len() > before {
        return None;
    }
    let task = match kind {
        task::Kind::BriefCaption(v1::BriefCaption {}) => Task::BriefCaption,
        task::Kind::DetailedCaption(v1::DetailedCaption {}) => Task::DetailedCaption,
        task::Kind::Question(v1::Question { question }) => Task::Question(question.clone()),
        task::Kind::PhraseGrounding(v1::PhraseGrounding { phrase }) => Task::PhraseGrounding(phrase.clone()),
        task::Kind::ReferringExpressionComprehension(v1::ReferringExpressionComprehension { expression }) => {
            Task::ReferringExpressionComprehension(expression.clone())
        }
        task::Kind::ReferringExpressionGeneration(v1::ReferringExpressionGeneration { boxes: places }) => {
            Task::ReferringExpressionGeneration(boxes(&format!("{at}.boxes"), places, problems))
        }
        task::Kind::Raw(prompt) => Task::Raw(raw(&at, prompt, problems)),
        task::Kind::TextScoring(v1::TextScoring { prompt, text, with_end }) => {
            let text = raw(&format!("{at}.text"), text.as_ref().unwrap_or(&v1::RawPrompt::default()), problems);
            let prompt = Prompt::new(prompt.clone());
            if let Err(error) = prompt.check() {
                problems.push(format!("{at}.prompt: {error}"));
            }
            return (problems.len() == before).then_some(Ask::Score { prompt, text, with_end: *with_end });
        }
    };
    if problems.len() > before {
        return None;
    }
    let prompt = task.prompt().map_err(|error| problems.push(format!("{at}: {error}"))).ok()?;
    Some(Ask::generate(prompt, options.clone()))
}

fn raw(at: &str, prompt: &v1::RawPrompt, problems: &mut Vec<String>) -> Prompt {
    let v1::RawPrompt { text, phrase_boxes } = prompt;
    if text.trim().is_empty() {
        problems.push(format!("{at}.text is empty: give a prompt, for example \"<grounding> An image of\""));
    }
    let phrases = phrase_boxes.iter().enumerate();
    let all = phrases.map(|(i, phrase)| boxes(&format!("{at}.phrase_boxes[{i}]"), &phrase.boxes, problems));
    let all: Vec<_> = all.collect();
    let prompt = Prompt { text: text.clone(), boxes: (!all.is_empty()).then_some(all) };
    if let Err(error) = prompt.check() {
        problems.push(format!("{at}: {error}"));
    }
    prompt
}

/// Before anything else is looked at, or repeated in a sentence.
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

fn boxes(at: &str, places: &[v1::PromptBox], problems: &mut Vec<String>) -> Vec<PromptBox> {
    places.iter().enumerate().filter_map(|(i, place)| prompt_box(&format!("{at}[{i}]"), place, problems)).collect()
}

fn prompt_box(at: &str, place: &v1::PromptBox, problems: &mut Vec<String>) -> Option<PromptBox> {
    let place = match place.r#box {
        None => {
            problems.push(format!("{at} is no box: give patches or fractions"));
            return None;
        }
        Some(prompt_box::Box::Patches(v1::PatchPair { upper_left, lower_right })) => {
            PromptBox::Patches(upper_left.into(), lower_right.into())
        }
        Some(prompt_box::Box::Fractions(v1::FractionBox { x0, y0, x1, y1 })) => PromptBox::Fractions([x0, y0, x1, y1]),
    };
    place.check().map_err(|error| problems.push(format!("{at}: {error}"))).ok()?;
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patches(upper_left: u32, lower_right: u32) -> v1::PromptBox {
        v1::PromptBox { r#box: Some(prompt_box::Box::Patches(v1::PatchPair { upper_left, lower_right })) }
    }

    fn fractions(x0: f64, y0: f64, x1: f64, y1: f64) -> v1::PromptBox {
        v1::PromptBox { r#box: Some(prompt_box::Box::Fractions(v1::FractionBox { x0, y0, x1, y1 })) }
    }

    fn read(kind: task::Kind) -> (Option<Prompt>, Vec<String>) {
        let mut problems = Vec::new();
        let asked = ask(0, Some(&kind), &GenerationOptions::default(), &mut problems);
        let prompt = asked.map(|asked| match asked {
            Ask::Generate { prompt, .. } => prompt,
            Ask::Score { prompt, text, .. } => prompt.followed_by(&text),
        });
        (prompt, problems)
    }

    #[test]
    fn a_text_is_scored_behind_its_prompt_with_its_boxes() {
        let phrase_boxes = vec![v1::PhraseBoxes { boxes: vec![patches(44, 863)] }];
        let text = v1::RawPrompt { text: "<phrase> a cat</phrase>".into(), phrase_boxes };
        let scoring = v1::TextScoring { prompt: "<grounding>".into(), text: Some(text), with_end: true };
        let (prompt, problems) = read(task::Kind::TextScoring(scoring));
        let expected = Prompt {
            text: "<grounding><phrase> a cat</phrase>".into(),
            boxes: Some(vec![vec![PromptBox::Patches(44, 863)]]),
        };
        assert_eq!((prompt, problems), (Some(expected), vec![]));
        let (nothing, problems) = read(task::Kind::TextScoring(v1::TextScoring::default()));
        assert!(nothing.is_none() && problems[0].contains("text is empty"), "{problems:?}");
    }

    #[test]
    fn each_task_becomes_its_prompt() {
        let table = [
            (task::Kind::BriefCaption(v1::BriefCaption {}), "<grounding> An image of"),
            (task::Kind::DetailedCaption(v1::DetailedCaption {}), "<grounding> Describe this image in detail:"),
            (task::Kind::Question(v1::Question { question: "Why?".into() }), "<grounding> Question: Why? Answer:"),
            (
                task::Kind::PhraseGrounding(v1::PhraseGrounding { phrase: "a cat".into() }),
                "<grounding><phrase> a cat</phrase>",
            ),
            (
                task::Kind::ReferringExpressionComprehension(v1::ReferringExpressionComprehension {
                    expression: "the cat on the left".into(),
                }),
                "<grounding><phrase> the cat on the left</phrase>",
            ),
            (task::Kind::Raw(v1::RawPrompt { text: "An image of".into(), phrase_boxes: vec![] }), "An image of"),
        ];
        for (kind, text) in table {
            assert_eq!(read(kind), (Some(Prompt::new(text)), vec![]));
        }
    }

    #[test]
    fn boxes_are_handed_on_as_they_were_given() {
        let boxes = vec![patches(44, 863), fractions(0.0, 0.25, 0.5, 1.0)];
        let wanted = vec![PromptBox::Patches(44, 863), PromptBox::Fractions([0.0, 0.25, 0.5, 1.0])];
        let place = v1::ReferringExpressionGeneration { boxes: boxes.clone() };
        let (prompt, problems) = read(task::Kind::ReferringExpressionGeneration(place));
        assert_eq!((prompt.unwrap().boxes, problems), (Some(vec![wanted.clone()]), vec![]));
        let phrase_boxes = vec![v1::PhraseBoxes { boxes }, v1::PhraseBoxes::default()];
        let (prompt, _) = read(task::Kind::Raw(v1::RawPrompt { text: "x".into(), phrase_boxes }));
        assert_eq!(prompt.unwrap().boxes, Some(vec![wanted, vec![]]));
    }

    #[test]
    fn every_wrong_box_is_named() {
        let boxes = vec![
            patches(0, 1024),
            fractions(0.5, 0.0, 0.5, 1.0),
            fractions(f64::NAN, 0.0, 0.5, 1.0),
            fractions(0.0, 0.0, 1.5, 1.0),
            v1::PromptBox::default(),
            patches(5000, 9000),
            fractions(50.0, 40.0, 120.0, 100.0),
            fractions(-0.1, 0.0, 0.5, 1.0),
            fractions(0.0, 0.0, f64::INFINITY, 1.0),
        ];
        let (prompt, problems) =
            read(task::Kind::ReferringExpressionGeneration(v1::ReferringExpressionGeneration { boxes }));
        assert!(prompt.is_none());
        assert_eq!(problems.len(), 9, "{problems:?}");
        assert!(problems[4].starts_with("tasks[0].boxes[4] is no box"));
    }

    #[test]
    fn words_and_boxes_that_are_missing_or_act_as_markup_are_refused() {
        let kinds = [
            task::Kind::Question(v1::Question { question: "  ".into() }),
            task::Kind::PhraseGrounding(v1::PhraseGrounding { phrase: "a</phrase>".into() }),
            task::Kind::ReferringExpressionGeneration(v1::ReferringExpressionGeneration::default()),
            task::Kind::Raw(v1::RawPrompt::default()),
            task::Kind::Raw(v1::RawPrompt { text: " \n".into(), phrase_boxes: vec![] }),
            task::Kind::Raw(v1::RawPrompt { text: "<patch_index_5000>".into(), phrase_boxes: vec![] }),
        ];
        for kind in kinds {
            let (prompt, problems) = read(kind);
            assert!(prompt.is_none());
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with("tasks[0]"));
        }
    }
}
