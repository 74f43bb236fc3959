//! Converts jobs to queries for the model.

use bytes::Bytes;
use kosmos2::Query;
use kosmos2::options::{BeamOptions, EarlyStopping, GenerationOptions, Sampling};
use kosmos2::processor::prompt::{Prompt, PromptBox, Task};
use wire::job::{CheckedJob, JobError};
use wire::options::{self, Options};
use wire::v1;
use wire::v1::{prompt_box, task};

/// A valid job with its queries for the model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelJob {
    /// The job.
    pub job: CheckedJob,
    /// One query for each of its tasks.
    pub queries: Vec<Query>,
}

impl ModelJob {
    /// Decodes a job and checks it, including its prompts.
    ///
    /// # Errors
    /// [`JobError`] with all problems found.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, JobError> {
        Self::by(|query| CheckedJob::from_bytes_with(bytes, query))
    }

    /// Checks a job, including its prompts.
    ///
    /// # Errors
    /// [`JobError::Invalid`] with all problems found.
    pub fn new(job: v1::ImageJob) -> Result<Self, JobError> {
        Self::by(|query| CheckedJob::new_with(job, query))
    }

    fn by(
        check: impl FnOnce(&mut dyn FnMut(&str, &task::Kind, &Options, &mut Vec<String>)) -> Result<CheckedJob, JobError>,
    ) -> Result<Self, JobError> {
        let mut queries = Vec::new();
        let job = check(&mut |at, kind, options, problems| {
            queries.extend(query(at, kind, &generation_options(options), problems));
        })?;
        Ok(Self { job, queries })
    }
}

// Everything that the wire accepts must be valid for the model. Where both have a range, it is the same.
const _: () = {
    use kosmos2::options::{LENGTH_PENALTY, MAX_TOP_P, NUM_BEAMS};
    assert!(*options::MAX_NEW_TOKENS.start() >= 1);
    assert!(*options::TEMPERATURE.start() > 0.0 && *options::TEMPERATURE.end() < f32::INFINITY);
    assert!(*options::REPETITION_PENALTY.start() > 0.0 && *options::REPETITION_PENALTY.end() < f32::INFINITY);
    assert!(options::MAX_TOP_P == MAX_TOP_P);
    assert!(*options::NUM_BEAMS.start() as usize == *NUM_BEAMS.start());
    assert!(*options::NUM_BEAMS.end() as usize == *NUM_BEAMS.end());
    assert!(*options::LENGTH_PENALTY.start() == *LENGTH_PENALTY.start());
    assert!(*options::LENGTH_PENALTY.end() == *LENGTH_PENALTY.end());
};

/// The model's form of the options of a job.
fn generation_options(wire: &Options) -> GenerationOptions {
    let Options { max_new_tokens, no_repeat_ngram_size, repetition_penalty, well_formed, .. } = *wire;
    GenerationOptions {
        max_new_tokens: max_new_tokens as usize,
        sampling: match wire.sampling {
            options::Sampling::Greedy => Sampling::Greedy,
            options::Sampling::Random { temperature, top_k, top_p, seed } => {
                Sampling::Random { temperature, top_k: top_k.map(|k| k as usize), top_p, seed }
            }
            options::Sampling::Beam { num_beams, length_penalty, early_stopping } => Sampling::Beam(BeamOptions {
                num_beams: num_beams as usize,
                length_penalty,
                early_stopping: match early_stopping {
                    v1::EarlyStopping::Unspecified | v1::EarlyStopping::No => EarlyStopping::No,
                    v1::EarlyStopping::Yes => EarlyStopping::Yes,
                    v1::EarlyStopping::Never => EarlyStopping::Never,
                },
            }),
        },
        no_repeat_ngram_size: no_repeat_ngram_size as usize,
        repetition_penalty,
        well_formed,
    }
}

/// The query of a task. `at` is its path in the job. Adds one sentence to `problems` for each problem and then may
/// return `None`.
fn query(at: &str, kind: &task::Kind, options: &GenerationOptions, problems: &mut Vec<String>) -> Option<Query> {
    let before = problems.len();
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
        task::Kind::Raw(prompt) => Task::Raw(raw(at, prompt, problems)),
        task::Kind::TextScoring(v1::TextScoring { prompt, text, with_end }) => {
            let text = raw(&format!("{at}.text"), text.as_ref().unwrap_or(&v1::RawPrompt::default()), problems);
            let prompt = Prompt::new(prompt.clone());
            if let Err(error) = prompt.check() {
                problems.push(format!("{at}.prompt: {error}"));
            }
            return (problems.len() == before).then_some(Query::Score { prompt, text, with_end: *with_end });
        }
    };
    if problems.len() > before {
        return None;
    }
    let prompt = task.prompt().map_err(|error| problems.push(format!("{at}: {error}"))).ok()?;
    Some(Query::generate(prompt, options.clone()))
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

fn boxes(at: &str, places: &[v1::PromptBox], problems: &mut Vec<String>) -> Vec<PromptBox> {
    places.iter().enumerate().filter_map(|(i, place)| prompt_box(&format!("{at}[{i}]"), place, problems)).collect()
}

fn prompt_box(at: &str, place: &v1::PromptBox, problems: &mut Vec<String>) -> Option<PromptBox> {
    let place = match place.r#box {
        None => {
            problems.push(format!("{at} is empty: set patches or fractions"));
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

    #[test]
    fn options_that_are_left_out_are_the_models_defaults() {
        let expected = GenerationOptions { well_formed: true, ..GenerationOptions::default() };
        assert_eq!(generation_options(&Options::default()), expected);
    }

    #[test]
    fn all_problems_of_a_job_and_of_its_prompts_come_at_once() {
        let question = task::Kind::Question(v1::Question { question: "  ".into() });
        let task = v1::Task { task_id: "t".into(), kind: Some(question) };
        let job = v1::ImageJob { job_id: "j".into(), dataset: "a.b".into(), tasks: vec![task], ..Default::default() };
        let Err(JobError::Invalid { problems, .. }) = ModelJob::new(job) else { panic!("accepted") };
        assert_eq!(problems.len(), 3, "{problems:?}");
    }

    fn patches(upper_left: u32, lower_right: u32) -> v1::PromptBox {
        v1::PromptBox { r#box: Some(prompt_box::Box::Patches(v1::PatchPair { upper_left, lower_right })) }
    }

    fn fractions(x0: f64, y0: f64, x1: f64, y1: f64) -> v1::PromptBox {
        v1::PromptBox { r#box: Some(prompt_box::Box::Fractions(v1::FractionBox { x0, y0, x1, y1 })) }
    }

    fn read(kind: task::Kind) -> (Option<Prompt>, Vec<String>) {
        let mut problems = Vec::new();
        let query = query("tasks[0]", &kind, &GenerationOptions::default(), &mut problems);
        let prompt = query.map(|query| match query {
            Query::Generate { prompt, .. } => prompt,
            Query::Score { prompt, text, .. } => prompt.followed_by(&text),
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
        assert!(problems[4].starts_with("tasks[0].boxes[4] is empty"));
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
