//! The tasks that the command line gives for each picture.

use std::collections::HashSet;

use anyhow::{anyhow, bail};
use kosmos2::processor::prompt::{Prompt, Task};
use wire::v1::{self, task::Kind};

use crate::annotate_args::AnnotateArgs;
use crate::task_syntax::{kind, parse, raw};

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
        let task = parse(text).map_err(|error| anyhow!("--task {error}"))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_tasks_are_their_arguments_and_all_different() {
        let mut taken = HashSet::new();
        let ids = ["brief", "ground=a fox", "brief", "brief"].map(|name| unused_id(name, &mut taken));
        assert_eq!(ids, ["brief", "ground=a fox", "brief#2", "brief#3"]);
        let long = format!("question={}", "x".repeat(MAX_ID));
        assert_eq!([unused_id(&long, &mut taken), unused_id(&long, &mut taken)], ["question", "question#2"]);
    }
}
