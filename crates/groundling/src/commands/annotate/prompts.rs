//! The prompts that the command line gives for each picture.

use anyhow::{anyhow, bail};
use kosmos2::processor::prompt::{Prompt, PromptBox, Task};

use crate::args::AnnotateArgs;

/// The prompts of `--prompt`, then those of `--task`, each in the given order; a brief caption if there are none.
pub(super) fn prompts(args: &AnnotateArgs) -> anyhow::Result<Vec<Prompt>> {
    if args.boxes.is_some() && args.prompt.len() != 1 {
        bail!("--boxes requires exactly one --prompt");
    }
    let mut prompts = Vec::new();
    for text in &args.prompt {
        if text.trim().is_empty() {
            bail!("--prompt is empty; give a text, for example '<grounding> An image of'");
        }
        let prompt = Prompt::from_json(text, args.boxes.as_deref())?;
        prompt.check().map_err(|error| anyhow!("--prompt {text}: {error}"))?;
        prompts.push(prompt);
    }
    for text in &args.task {
        let prompt = task(text)?.prompt().and_then(|prompt| prompt.check().map(|()| prompt));
        prompts.push(prompt.map_err(|error| anyhow!("--task {text}: {error}"))?);
    }
    if prompts.is_empty() {
        prompts.push(Task::BriefCaption.prompt()?);
    }
    Ok(prompts)
}

fn task(text: &str) -> anyhow::Result<Task> {
    let (name, argument) = text.split_once('=').unwrap_or((text, ""));
    Ok(match name {
        "brief" if argument.is_empty() => Task::BriefCaption,
        "detailed" if argument.is_empty() => Task::DetailedCaption,
        "question" => Task::Question(argument.into()),
        "ground" => Task::PhraseGrounding(argument.into()),
        "find" => Task::ReferringExpressionComprehension(argument.into()),
        "describe" => Task::ReferringExpressionGeneration(vec![prompt_box(argument)?]),
        _ => bail!(
            "--task {text}: expected brief, detailed, question=TEXT, ground=PHRASE, find=EXPRESSION or describe=BOX"
        ),
    })
}

/// Parses `x0,y0,x1,y1` as fractions, or two patch indices.
fn prompt_box(text: &str) -> anyhow::Result<PromptBox> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let invalid = || {
        anyhow!(
            "--task describe={text}: expected a box as x0,y0,x1,y1 in fractions of the picture, or as two patch indices"
        )
    };
    match parts[..] {
        [upper_left, lower_right] => {
            let index = |part: &str| part.parse().map_err(|_| invalid());
            Ok(PromptBox::Patches(index(upper_left)?, index(lower_right)?))
        }
        [x0, y0, x1, y1] => {
            let fraction = |part: &str| part.parse().map_err(|_| invalid());
            Ok(PromptBox::Fractions([fraction(x0)?, fraction(y0)?, fraction(x1)?, fraction(y1)?]))
        }
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_read_with_their_words_and_boxes() {
        assert_eq!(task("brief").unwrap(), Task::BriefCaption);
        assert_eq!(task("question=What = this?").unwrap(), Task::Question("What = this?".into()));
        let boxes = |text| match task(text).unwrap() {
            Task::ReferringExpressionGeneration(boxes) => boxes,
            other => panic!("{other:?}"),
        };
        assert_eq!(boxes("describe=44,863"), [PromptBox::Patches(44, 863)]);
        assert_eq!(boxes("describe=0, 0.5, 1, 1"), [PromptBox::Fractions([0.0, 0.5, 1.0, 1.0])]);
    }

    #[test]
    fn what_is_no_task_is_refused_with_what_there_is() {
        for text in ["caption", "brief=x", ""] {
            assert!(task(text).unwrap_err().to_string().contains("expected brief, detailed"));
        }
        for text in ["describe", "describe=1", "describe=a,b", "describe=1.5,2", "describe=0,0,1"] {
            assert!(task(text).unwrap_err().to_string().contains("two patch indices"));
        }
    }
}
