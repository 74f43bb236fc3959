//! Converts the tasks of the command line and of `[[ingest]]` rules to the tasks of jobs.

use std::collections::HashMap;

use anyhow::anyhow;
use kosmos2::Query;
use wire::v1::{self, GenerationOptions, RawPrompt, Task, task};
use worker::model_job::ModelJob;

use crate::enqueue_args::JobGenerationArgs;
use crate::exit::Misuse;
use crate::task_syntax::{kind, parse};

/// The prompts of `--prompt` and the tasks of `--task`, in their order. A brief caption if there are none.
pub(crate) fn tasks(prompts: &[String], names: &[String]) -> anyhow::Result<Vec<Task>> {
    let mut tasks = Vec::new();
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut add = |name: &str, kind| {
        let count = counts.entry(name.to_owned()).or_default();
        *count += 1;
        let task_id = if *count == 1 { name.to_owned() } else { format!("{name}-{count}") };
        tasks.push(Task { task_id, kind: Some(kind) });
    };
    for text in prompts {
        add("prompt", task::Kind::Raw(RawPrompt { text: text.clone(), phrase_boxes: Vec::new() }));
    }
    for text in names {
        let task = parse(text).map_err(|error| anyhow!("--task {error}"))?;
        add(text.split('=').next().unwrap_or_default(), kind(task));
    }
    if prompts.is_empty() && names.is_empty() {
        add("brief", task::Kind::BriefCaption(v1::BriefCaption {}));
    }
    Ok(tasks)
}

/// The problem of a task's text, if it has one.
pub(crate) fn task_problem(text: &str) -> Option<String> {
    parse(text).err().map(|error| error.to_string())
}

/// The generation options; `None` if none is given.
pub(crate) fn options(args: &JobGenerationArgs) -> Option<GenerationOptions> {
    let options = GenerationOptions {
        max_new_tokens: args.max_new_tokens,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed.filter(|_| args.temperature.is_some()),
        no_repeat_ngram_size: args.no_repeat_ngram_size,
        repetition_penalty: args.repetition_penalty,
        well_formed: None,
        beam_search: args.num_beams.map(|num_beams| v1::BeamSearch { num_beams, ..v1::BeamSearch::default() }),
    };
    (options != GenerationOptions::default()).then_some(options)
}

/// The prompts that workers give to the model for a job.
///
/// # Errors
/// [`Misuse`] if a worker would reject the job.
pub(crate) fn final_prompts(job: v1::ImageJob) -> anyhow::Result<Vec<String>> {
    let job = ModelJob::new(job).map_err(|error| Misuse(anyhow!("{error}")))?;
    let prompt = |query: Query| match query {
        Query::Generate { prompt, .. } | Query::Score { prompt, .. } => prompt.text,
    };
    Ok(job.queries.into_iter().map(prompt).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(tasks: &[Task]) -> Vec<&str> {
        tasks.iter().map(|task| task.task_id.as_str()).collect()
    }

    #[test]
    fn tasks_are_named_by_their_kind_and_numbered_where_one_comes_again() {
        let texts = |texts: &[&str]| -> Vec<String> { texts.iter().map(|text| (*text).to_owned()).collect() };
        assert_eq!(ids(&tasks(&[], &[]).unwrap()), ["brief"]);
        let several = tasks(&texts(&["<grounding> A"]), &texts(&["ground=a cat", "brief", "ground=a dog"])).unwrap();
        assert_eq!(ids(&several), ["prompt", "ground", "brief", "ground-2"]);
        for bad in ["caption", "brief=x", "describe=1", "describe=a,b"] {
            assert!(tasks(&[], &texts(&[bad])).unwrap_err().to_string().contains("--task"), "{bad}");
        }
    }
}
