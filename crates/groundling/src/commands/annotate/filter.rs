//! Leaves phrases and boxes out of answers: `--min-score`, `--phrases`, `--no-cleanup`.

use std::path::Path;

use anyhow::{Context, anyhow};
use glob::Pattern;
use kosmos2::options::{GroundedText, ScoredEntity};
use wire::identity::sha256_hex;

use crate::annotate_args::OutputArgs;
use crate::files::without_mark;

/// What is left out of answers.
#[derive(Debug, Default)]
pub(super) struct Filter {
    min_score: Option<f32>,
    phrases: Option<Phrases>,
    no_cleanup: bool,
}

/// The lines of `--phrases`.
#[derive(Debug)]
struct Phrases {
    /// SHA-256 of the file, in hexadecimal.
    digest: String,
    patterns: Vec<Pattern>,
}

impl Phrases {
    fn read(file: &Path) -> anyhow::Result<Self> {
        let shown = file.display();
        let bytes = std::fs::read(file).with_context(|| format!("--phrases {shown}: the file cannot be read"))?;
        let text = without_mark(&bytes).map_err(|problem| anyhow!("--phrases {shown}: {problem}"))?;
        let text = std::str::from_utf8(text).map_err(|_| anyhow!("--phrases {shown}: the file is not UTF-8"))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let pattern = |line: &str| {
            // Only `*` and `?` are special.
            let escaped = line.to_lowercase().replace('[', "[[]");
            Pattern::new(&escaped).map_err(|error| anyhow!("--phrases {shown}: {line}: {error}"))
        };
        let patterns = lines.map(pattern).collect::<anyhow::Result<Vec<_>>>()?;
        if patterns.is_empty() {
            return Err(anyhow!("--phrases {shown}: the file has no phrase"));
        }
        Ok(Self { digest: sha256_hex(&bytes), patterns })
    }

    fn matches(&self, phrase: &str) -> bool {
        let phrase = phrase.to_lowercase();
        self.patterns.iter().any(|pattern| pattern.matches(&phrase))
    }
}

impl Filter {
    /// # Errors
    /// The file of `--phrases` cannot be read or is not valid.
    pub(super) fn new(args: &OutputArgs) -> anyhow::Result<Self> {
        let phrases = args.phrases.as_deref().map(Phrases::read).transpose()?;
        Ok(Self { min_score: args.min_score, phrases, no_cleanup: args.no_cleanup })
    }

    /// The labels of annotations that this filter was applied to.
    pub(super) fn labels(&self) -> Vec<(&'static str, String)> {
        let min_score = self.min_score.map(|score| ("min_score", score.to_string()));
        let phrases = self.phrases.as_ref().map(|phrases| ("phrases_sha256", phrases.digest.clone()));
        let cleanup = self.no_cleanup.then(|| ("cleanup", "none".to_owned()));
        min_score.into_iter().chain(phrases).chain(cleanup).collect()
    }

    /// Removes phrases and boxes. A phrase that loses all its boxes is removed too.
    pub(super) fn apply(&self, answer: &mut GroundedText) {
        if self.no_cleanup {
            answer.entities.clear();
            answer.text.clone_from(&answer.raw_text);
        }
        if let Some(phrases) = &self.phrases {
            answer.entities.retain(|entity| phrases.matches(&entity.phrase));
        }
        if let Some(least) = self.min_score {
            answer.entities.retain(|entity| entity.score.is_none_or(|score| score >= least));
            answer.entities.iter_mut().for_each(|entity| keep_boxes(entity, least));
            answer.entities.retain(|entity| !entity.boxes.is_empty());
        }
    }
}

/// Keeps the boxes with at least this score, or without one.
fn keep_boxes(entity: &mut ScoredEntity, least: f32) {
    let score = |index: usize| entity.box_scores.get(index).copied().flatten();
    let kept: Vec<bool> =
        (0..entity.boxes.len()).map(|index| score(index).is_none_or(|score| score >= least)).collect();
    retain(&mut entity.boxes, &kept);
    retain(&mut entity.box_scores, &kept);
    retain(&mut entity.refined_boxes, &kept);
}

fn retain<T>(list: &mut Vec<T>, kept: &[bool]) {
    let mut kept = kept.iter();
    list.retain(|_| kept.next().copied().unwrap_or(true));
}

#[cfg(test)]
mod tests {
    use kosmos2::grounding::BoundingBox;
    use kosmos2::options::FinishReason;

    use super::*;

    fn answer() -> GroundedText {
        let entity = |phrase: &str, score: Option<f32>, box_scores: &[Option<f32>]| ScoredEntity {
            phrase: phrase.into(),
            span: (0, 1),
            boxes: (0..box_scores.len())
                .map(|n| BoundingBox { x0: n as f64 / 8.0, y0: 0.0, x1: 1.0, y1: 1.0 })
                .collect(),
            score,
            box_scores: box_scores.to_vec(),
            refined_boxes: vec![None; box_scores.len()],
        };
        GroundedText {
            prompt: "p".into(),
            prompt_tokens: 1,
            text: "text".into(),
            raw_text: "raw".into(),
            token_ids: Vec::new(),
            logprobs: Vec::new(),
            entities: vec![
                entity("a fox", Some(0.9), &[Some(0.2), Some(0.7)]),
                entity("two Dogs", Some(0.3), &[Some(0.9)]),
                entity("It", None, &[None]),
                entity("a hen", Some(0.8), &[Some(0.1)]),
            ],
            finish_reason: FinishReason::Stop,
        }
    }

    fn kept(filter: &Filter) -> Vec<(String, Vec<Option<f32>>)> {
        let mut answer = answer();
        filter.apply(&mut answer);
        let entities = answer.entities.into_iter();
        entities
            .map(|entity| {
                assert_eq!(entity.boxes.len(), entity.box_scores.len());
                assert_eq!(entity.boxes.len(), entity.refined_boxes.len());
                (entity.phrase, entity.box_scores)
            })
            .collect()
    }

    #[test]
    fn phrases_and_boxes_below_the_score_are_removed_and_unknown_scores_stay() {
        let filter = Filter { min_score: Some(0.5), ..Filter::default() };
        assert_eq!(kept(&filter), [("a fox".to_owned(), vec![Some(0.7)]), ("It".to_owned(), vec![None])]);
        assert_eq!(filter.labels(), [("min_score", "0.5".to_owned())]);
        assert_eq!(kept(&Filter::default()).len(), 4);
    }

    #[test]
    fn phrases_are_compared_as_a_whole_in_lower_case_with_wildcards() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let filter = |text: &str| {
            // As editors on Windows write it.
            std::fs::write(file.path(), format!("\u{feff}{}", text.replace('\n', "\r\n"))).unwrap();
            Phrases::read(file.path()).map(|phrases| Filter { phrases: Some(phrases), ..Filter::default() })
        };
        let names = |text: &str| kept(&filter(text).unwrap()).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names("A FOX\n\n  it \n"), ["a fox", "It"]);
        assert_eq!(names("*dogs"), ["two Dogs"]);
        assert_eq!(names("a ???"), ["a fox", "a hen"]);
        assert!(names("fox\n[ab] fox").is_empty());
        assert!(filter("\n \n").is_err());
        std::fs::write(file.path(), b"\xff\xfea\0").unwrap();
        assert!(Phrases::read(file.path()).unwrap_err().to_string().contains("UTF-16"));
    }
}
