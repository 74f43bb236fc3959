//! The syntax of `--task` and of the tasks of `[[ingest]]` rules.

use anyhow::{anyhow, bail};
use kosmos2::processor::prompt::{Prompt, PromptBox, Task};
use wire::v1::{self, prompt_box, task::Kind};

/// Parses a task. The error begins with the text of the task.
pub(crate) fn parse(text: &str) -> anyhow::Result<Task> {
    let (name, argument) = text.split_once('=').unwrap_or((text, ""));
    Ok(match name {
        "brief" if argument.is_empty() => Task::BriefCaption,
        "detailed" if argument.is_empty() => Task::DetailedCaption,
        "question" => Task::Question(argument.into()),
        "ground" => Task::PhraseGrounding(argument.into()),
        "find" => Task::ReferringExpressionComprehension(argument.into()),
        "describe" => Task::ReferringExpressionGeneration(vec![parse_box(argument)?]),
        _ => bail!("{text}: expected brief, detailed, question=TEXT, ground=PHRASE, find=EXPRESSION or describe=BOX"),
    })
}

/// Parses `x0,y0,x1,y1` as fractions, or two patch indices, and checks that the box is within the picture.
fn parse_box(text: &str) -> anyhow::Result<PromptBox> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let invalid = || {
        anyhow!("describe={text}: expected a box as x0,y0,x1,y1 in fractions of the picture, or as two patch indices")
    };
    let parsed = match parts[..] {
        [upper_left, lower_right] => {
            let index = |part: &str| part.parse().map_err(|_| invalid());
            PromptBox::Patches(index(upper_left)?, index(lower_right)?)
        }
        [x0, y0, x1, y1] => {
            let fraction = |part: &str| part.parse().map_err(|_| invalid());
            PromptBox::Fractions([fraction(x0)?, fraction(y0)?, fraction(x1)?, fraction(y1)?])
        }
        _ => return Err(invalid()),
    };
    parsed.check().map_err(|error| anyhow!("describe={text}: {error}"))?;
    Ok(parsed)
}

/// The task as jobs have it.
pub(crate) fn kind(task: Task) -> Kind {
    match task {
        Task::BriefCaption => Kind::BriefCaption(v1::BriefCaption {}),
        Task::DetailedCaption => Kind::DetailedCaption(v1::DetailedCaption {}),
        Task::Question(question) => Kind::Question(v1::Question { question }),
        Task::PhraseGrounding(phrase) => Kind::PhraseGrounding(v1::PhraseGrounding { phrase }),
        Task::ReferringExpressionComprehension(expression) => {
            Kind::ReferringExpressionComprehension(v1::ReferringExpressionComprehension { expression })
        }
        Task::ReferringExpressionGeneration(boxes) => {
            let boxes = boxes.iter().map(wire_box).collect();
            Kind::ReferringExpressionGeneration(v1::ReferringExpressionGeneration { boxes })
        }
        Task::Raw(prompt) => Kind::Raw(raw(&prompt)),
    }
}

/// The prompt as jobs have it.
pub(crate) fn raw(prompt: &Prompt) -> v1::RawPrompt {
    let boxes = prompt.boxes.iter().flatten();
    let phrase_boxes = boxes.map(|boxes| v1::PhraseBoxes { boxes: boxes.iter().map(wire_box).collect() }).collect();
    v1::RawPrompt { text: prompt.text.clone(), phrase_boxes }
}

fn wire_box(prompt_box: &PromptBox) -> v1::PromptBox {
    let index = |index: i64| u32::try_from(index).unwrap_or(u32::MAX);
    let one = match *prompt_box {
        PromptBox::Patches(upper_left, lower_right) => {
            prompt_box::Box::Patches(v1::PatchPair { upper_left: index(upper_left), lower_right: index(lower_right) })
        }
        PromptBox::Fractions([x0, y0, x1, y1]) => prompt_box::Box::Fractions(v1::FractionBox { x0, y0, x1, y1 }),
    };
    v1::PromptBox { r#box: Some(one) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_read_with_their_words_and_boxes() {
        assert_eq!(parse("brief").unwrap(), Task::BriefCaption);
        assert_eq!(parse("question=What = this?").unwrap(), Task::Question("What = this?".into()));
        let boxes = |text| match parse(text).unwrap() {
            Task::ReferringExpressionGeneration(boxes) => boxes,
            other => panic!("{other:?}"),
        };
        assert_eq!(boxes("describe=44,863"), [PromptBox::Patches(44, 863)]);
        assert_eq!(boxes("describe=0, 0.5, 1, 1"), [PromptBox::Fractions([0.0, 0.5, 1.0, 1.0])]);
    }

    #[test]
    fn what_is_no_task_is_refused_with_what_there_is() {
        for text in ["caption", "brief=x", ""] {
            assert!(parse(text).unwrap_err().to_string().contains("expected brief, detailed"));
        }
        for text in ["describe", "describe=1", "describe=a,b", "describe=1.5,2", "describe=0,0,1"] {
            assert!(parse(text).unwrap_err().to_string().contains("two patch indices"));
        }
        assert!(parse("describe=-1,3").unwrap_err().to_string().contains("0 to 1023"));
    }
}
