//! The tasks that the command line gives for each picture.

use std::collections::HashSet;

use anyhow::{anyhow, bail};
use kosmos2::processor::prompt::{Prompt, PromptBox, Task};
use wire::v1::{self, prompt_box, task::Kind};

use crate::annotate_args::AnnotateArgs;

/// The longest id of a task, as in jobs, in bytes.
const MAX_ID: usize = 128;

/// A task with its prompt.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NamedTask {
    /// The task as in a job. Its id is the argument of `--task`, or `prompt`.
    pub(super) task: v1::Task,
    pub(super) prompt: Prompt,
}

/// The tasks of `--prompt`, then those of `--task`, each in the given order; a brief caption if there are none.
pub(super) fn tasks(args: &AnnotateArgs) -> anyhow::Result<Vec<NamedTask>> {
    if args.boxes.is_some() && args.prompt.len() != 1 {
        bail!("--boxes requires exactly one --prompt");
    }
    let (mut tasks, mut ids) = (Vec::new(), HashSet::new());
    let mut add = |name: &str, kind, prompt| {
        let task = v1::Task { task_id: unused_id(name, &mut ids), kind: Some(kind) };
        tasks.push(NamedTask { task, prompt });
    };
    for text in &args.prompt {
        if text.trim().is_empty() {
            bail!("--prompt is empty; give a text, for example '<grounding> An image of'");
        }
        let prompt = Prompt::from_json(text, args.boxes.as_deref())?;
        prompt.check().map_err(|error| anyhow!("--prompt {text}: {error}"))?;
        add("prompt", Kind::Raw(raw(&prompt)), prompt);
    }
    for text in &args.task {
        let task = task(text)?;
        let prompt = task.prompt().and_then(|prompt| prompt.check().map(|()| prompt));
        add(text, kind(task), prompt.map_err(|error| anyhow!("--task {text}: {error}"))?);
    }
    if args.prompt.is_empty() && args.task.is_empty() {
        add("brief", kind(Task::BriefCaption), Task::BriefCaption.prompt()?);
    }
    Ok(tasks)
}

/// The name, or the part before `=` if it is too long; with a number if it is taken.
fn unused_id(name: &str, taken: &mut HashSet<String>) -> String {
    // Room for the number.
    let name = if name.len() > MAX_ID - 8 { name.split('=').next().unwrap_or_default() } else { name };
    let numbered = (2..).map(|number| format!("{name}#{number}"));
    let id = std::iter::once(name.to_owned()).chain(numbered).find(|id| !taken.contains(id)).unwrap_or_default();
    taken.insert(id.clone());
    id
}

fn kind(task: Task) -> Kind {
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

fn raw(prompt: &Prompt) -> v1::RawPrompt {
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

fn task(text: &str) -> anyhow::Result<Task> {
    let (name, argument) = text.split_once('=').unwrap_or((text, ""));
    Ok(match name {
        "brief" if argument.is_empty() => Task::BriefCaption,
        "detailed" if argument.is_empty() => Task::DetailedCaption,
        "question" => Task::Question(argument.into()),
        "ground" => Task::PhraseGrounding(argument.into()),
        "find" => Task::ReferringExpressionComprehension(argument.into()),
        "describe" => Task::ReferringExpressionGeneration(vec![box_of(argument)?]),
        _ => bail!(
            "--task {text}: expected brief, detailed, question=TEXT, ground=PHRASE, find=EXPRESSION or describe=BOX"
        ),
    })
}

/// Parses `x0,y0,x1,y1` as fractions, or two patch indices.
fn box_of(text: &str) -> anyhow::Result<PromptBox> {
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
    fn ids_of_tasks_are_their_arguments_and_all_different() {
        let mut taken = HashSet::new();
        let ids = ["brief", "ground=a fox", "brief", "brief"].map(|name| unused_id(name, &mut taken));
        assert_eq!(ids, ["brief", "ground=a fox", "brief#2", "brief#3"]);
        let long = format!("question={}", "x".repeat(MAX_ID));
        assert_eq!([unused_id(&long, &mut taken), unused_id(&long, &mut taken)], ["question", "question#2"]);
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
