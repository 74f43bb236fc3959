//! What differs between two annotations of one picture.

use std::collections::BTreeMap;

use wire::v1::{Entity, ImageAnnotation, TaskResult};

use super::matching::{Corners, corners, match_boxes};
use super::totals::Totals;

/// What differs between the two annotations of a picture.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Difference {
    /// The counts of this picture alone.
    pub counts: Totals,
    /// Phrases that only the second annotation has.
    pub gained: Vec<String>,
    /// Phrases that only the first one has.
    pub lost: Vec<String>,
    /// How different they are, from 0 for equal boxes (without boxes: equal texts) to 1: the mean over the tasks of both.
    pub distance: f64,
}

/// The boxes of one phrase, with their scores.
#[derive(Default)]
struct Boxes {
    phrases: u64,
    corners: Vec<Corners>,
    scores: Vec<Option<f32>>,
}

/// Compares the results of the tasks that both have.
pub(super) fn compare(a: &ImageAnnotation, b: &ImageAnnotation) -> Difference {
    let mut difference = Difference::default();
    let (mut distances, mut compared) = (0.0, 0_u32);
    let of = |annotation: &ImageAnnotation, task: &str| -> Option<usize> {
        annotation.results.iter().position(|result| result.task_id == task)
    };
    for result in &a.results {
        match of(b, &result.task_id).and_then(|index| b.results.get(index)) {
            Some(other) => {
                distances += compare_results(result, other, &mut difference);
                compared += 1;
            }
            None => difference.counts.results_only_a += 1,
        }
    }
    let only_b = b.results.iter().filter(|result| of(a, &result.task_id).is_none());
    difference.counts.results_only_b += only_b.count() as u64;
    difference.counts.pictures = 1;
    difference.distance = if compared > 0 { distances / f64::from(compared) } else { 0.0 };
    difference
}

/// Compares two results of a task. Returns their distance.
fn compare_results(a: &TaskResult, b: &TaskResult, into: &mut Difference) -> f64 {
    let counts = &mut into.counts;
    counts.results += 1;
    // Prompts of two recipes can differ; answers are compared where both workers stated them.
    let are_equal = match (a.answer.as_str(), b.answer.as_str()) {
        ("", _) | (_, "") => a.text == b.text,
        (a, b) => a == b,
    };
    counts.texts_equal += u64::from(are_equal);
    let (left, right) = (by_phrase(&a.entities), by_phrase(&b.entities));
    let (mut overlap, mut all) = (0.0, 0);
    for phrase in left.keys().chain(right.keys().filter(|phrase| !left.contains_key(*phrase))) {
        let none = Boxes::default();
        let (a, b) = (left.get(phrase).unwrap_or(&none), right.get(phrase).unwrap_or(&none));
        counts.phrases_a += a.phrases;
        counts.phrases_b += b.phrases;
        let (gained, lost) = (b.phrases.saturating_sub(a.phrases), a.phrases.saturating_sub(b.phrases));
        into.gained.extend((0..gained).map(|_| phrase.clone()));
        into.lost.extend((0..lost).map(|_| phrase.clone()));
        counts.phrases_gained += gained;
        counts.phrases_lost += lost;
        counts.boxes_a += a.corners.len() as u64;
        counts.boxes_b += b.corners.len() as u64;
        for score in a.scores.iter().flatten() {
            counts.score_a.add(f64::from(*score));
        }
        for score in b.scores.iter().flatten() {
            counts.score_b.add(f64::from(*score));
        }
        let matches = match_boxes(&a.corners, &b.corners);
        all += a.corners.len() + b.corners.len() - matches.len();
        for found in matches {
            overlap += found.iou;
            counts.iou.add(found.iou);
            counts.add_iou_level(found.iou);
            let score = |scores: &[Option<f32>], index: usize| scores.get(index).copied().flatten();
            if let (Some(a), Some(b)) = (score(&a.scores, found.a), score(&b.scores, found.b)) {
                counts.score_difference.add(f64::from(b) - f64::from(a));
            }
        }
    }
    match all {
        0 if are_equal => 0.0,
        0 => 1.0,
        _ => 1.0 - overlap / all as f64,
    }
}

/// Phrases are equal if their words are, whatever the case and the white space.
fn by_phrase(entities: &[Entity]) -> BTreeMap<String, Boxes> {
    let mut boxes = BTreeMap::<String, Boxes>::new();
    for entity in entities {
        let phrase = entity.phrase.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        let of = boxes.entry(phrase).or_default();
        of.phrases += 1;
        of.corners.extend(entity.boxes.iter().map(corners));
        of.scores.extend(entity.boxes.iter().map(|found| found.score.filter(|score| score.is_finite())));
    }
    boxes
}

#[cfg(test)]
mod tests {
    use wire::v1::{FractionBox, GroundedBox};

    use super::*;

    fn boxed([x0, y0, x1, y1]: Corners, score: f32) -> GroundedBox {
        GroundedBox { fractions: Some(FractionBox { x0, y0, x1, y1 }), score: Some(score), ..GroundedBox::default() }
    }

    fn result(task_id: &str, text: &str, entities: &[(&str, &[GroundedBox])]) -> TaskResult {
        let entity = |(phrase, boxes): &(&str, &[GroundedBox])| Entity {
            phrase: (*phrase).into(),
            boxes: boxes.to_vec(),
            ..Entity::default()
        };
        TaskResult {
            task_id: task_id.into(),
            text: text.into(),
            entities: entities.iter().map(entity).collect(),
            ..TaskResult::default()
        }
    }

    #[test]
    fn phrases_boxes_and_scores_are_counted_by_task() {
        let (whole, left, right) = ([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]);
        let a = ImageAnnotation {
            results: vec![
                result("brief", "a fox", &[("A  Fox", &[boxed(whole, 0.9)]), ("a hen", &[boxed(left, 0.5)])]),
                result("plain", "same", &[]),
                result("old", "x", &[]),
            ],
            ..ImageAnnotation::default()
        };
        let b = ImageAnnotation {
            results: vec![
                result("brief", "two", &[("a fox", &[boxed(left, 0.5), boxed(right, 0.25)]), ("a log", &[])]),
                result("plain", "same", &[]),
                result("new", "x", &[]),
            ],
            ..ImageAnnotation::default()
        };
        let found = compare(&a, &b);
        assert_eq!((found.gained, found.lost), (vec!["a log".to_owned()], vec!["a hen".to_owned()]));
        let counts = found.counts;
        assert_eq!((counts.results, counts.texts_equal, counts.results_only_a, counts.results_only_b), (2, 1, 1, 1));
        assert_eq!((counts.boxes_a, counts.boxes_b, counts.iou.count, counts.iou.mean()), (2, 2, 1, Some(0.5)));
        assert_eq!(counts.iou_levels, [1, 0, 0]);
        // The fox's first box is matched: 0.5 − 0.9.
        assert!((counts.score_difference.mean().unwrap() + 0.4).abs() < 1e-6);
        // The first task: overlap 0.5 of 3 boxes in all. The second: equal texts.
        assert!((found.distance - (1.0 - 0.5 / 3.0) / 2.0).abs() < 1e-12);
        let same = compare(&a, &a);
        assert_eq!((same.distance, same.gained.len(), same.counts.texts_equal), (0.0, 0, 3));
    }

    #[test]
    fn answers_are_compared_where_both_are_known() {
        let said = |text: &str, answer: &str| ImageAnnotation {
            results: vec![TaskResult { answer: answer.into(), ..result("t", text, &[]) }],
            ..ImageAnnotation::default()
        };
        let equal = |a, b| compare(&a, &b).counts.texts_equal == 1;
        assert!(equal(said("An image of a fox", "a fox"), said("Describe: a fox", "a fox")));
        assert!(!equal(said("An image of a fox", "a fox"), said("Describe: a fox", "")));
        assert!(equal(said("a fox", ""), said("a fox", "fox")));
        assert_eq!(compare(&said("a", ""), &said("b", "")).distance, 1.0);
    }
}
