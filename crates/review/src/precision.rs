//! How many of the marked boxes are right, and from which score on enough of them are.

use serde::Serialize;

use crate::judgements::{JudgedBox, Verdict};

/// The quantile of the normal distribution for intervals of 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// Number of score bands between 0 and 1.
const BANDS: usize = 10;

/// A confidence interval of 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Lower bound, from 0 to 1.
    pub low: f64,
    /// Upper bound, from 0 to 1.
    pub high: f64,
}

/// Marked boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// Those that are right.
    pub right: u64,
    /// Those that are wrong.
    pub wrong: u64,
}

/// The boxes with scores from `from` to `to`. The upper end belongs to the last band only.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Band {
    /// Lowest score.
    pub from: f64,
    /// End of the band.
    pub to: f64,
    /// Its boxes.
    pub share: Share,
}

/// A score and the boxes that have at least this score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// The score.
    pub score: f64,
    /// The boxes.
    pub share: Share,
}

/// What marks say about the boxes.
#[derive(Debug, Clone, PartialEq)]
pub struct Precision {
    /// All boxes.
    pub all: Share,
    /// Boxes with a score by score, in ten bands of equal width.
    pub bands: Vec<Band>,
    /// Boxes without a score.
    pub without_score: Share,
    /// The precision that thresholds are to reach, between 0 and 1.
    pub target: f64,
    /// The lowest score t of a marked box such that, of the marked boxes with a score of at least t, the share of right ones
    /// is at least the target.
    pub estimated: Option<Threshold>,
    /// The lowest score t of a marked box such that the lower bound of the interval of this share is at least the target.
    pub assured: Option<Threshold>,
    /// With fewer marked boxes than this, no lower bound can reach the target, even if all of them are right.
    pub needed: u64,
}

/// Wilson's score interval of 95 % for a share of `right` among `judged`; `None` if nothing was judged.
pub fn wilson(right: u64, judged: u64) -> Option<Interval> {
    if judged == 0 {
        return None;
    }
    let (n, z2) = (judged as f64, Z * Z);
    let p = right as f64 / n;
    let centre = p + z2 / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    Some(Interval { low: ((centre - half) / scale).max(0.0), high: ((centre + half) / scale).min(1.0) })
}

impl Share {
    /// The number of boxes.
    pub fn judged(&self) -> u64 {
        self.right + self.wrong
    }

    /// The share of right ones; `None` without any.
    pub fn precision(&self) -> Option<f64> {
        (self.judged() > 0).then(|| self.right as f64 / self.judged() as f64)
    }

    /// The interval of this share.
    pub fn interval(&self) -> Option<Interval> {
        wilson(self.right, self.judged())
    }

    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Right => self.right += 1,
            Verdict::Wrong => self.wrong += 1,
        }
    }
}

impl Precision {
    /// Of marked boxes. `target` is between 0 and 1.
    pub fn of(boxes: &[JudgedBox], target: f64) -> Self {
        let edge = |index: usize| index as f64 / BANDS as f64;
        let band = |index: usize| Band { from: edge(index), to: edge(index + 1), share: Share::default() };
        let mut bands: Vec<Band> = (0..BANDS).map(band).collect();
        let (mut all, mut without_score) = (Share::default(), Share::default());
        let mut scored: Vec<(f64, Verdict)> = Vec::new();
        for one in boxes {
            all.add(one.verdict);
            let Some(score) = one.score.filter(|score| score.is_finite()) else {
                without_score.add(one.verdict);
                continue;
            };
            scored.push((score, one.verdict));
            let index = ((score * BANDS as f64) as usize).min(BANDS - 1);
            if let Some(band) = bands.get_mut(index) {
                band.share.add(one.verdict);
            }
        }
        let thresholds = thresholds(scored);
        let lowest = |reaches: &dyn Fn(&Share) -> bool| thresholds.iter().rfind(|one| reaches(&one.share)).copied();
        Self {
            all,
            bands,
            without_score,
            target,
            estimated: lowest(&|share| share.precision().is_some_and(|precision| precision >= target)),
            assured: lowest(&|share| share.interval().is_some_and(|interval| interval.low >= target)),
            needed: needed(target),
        }
    }

    /// The marked boxes that have a score.
    pub fn with_score(&self) -> u64 {
        self.all.judged() - self.without_score.judged()
    }

    /// Whether too few boxes with a score were marked for any lower bound to reach the target.
    pub fn is_too_small(&self) -> bool {
        self.with_score() < self.needed
    }
}

/// Each score that occurs, from the highest, with the boxes that have at least this score.
fn thresholds(mut scored: Vec<(f64, Verdict)>) -> Vec<Threshold> {
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut share, mut thresholds) = (Share::default(), Vec::<Threshold>::new());
    for (score, verdict) in scored {
        share.add(verdict);
        match thresholds.last_mut() {
            Some(last) if last.score == score => last.share = share,
            _ => thresholds.push(Threshold { score, share }),
        }
    }
    thresholds
}

/// If all of n are right, the lower bound is n / (n + z²).
fn needed(target: f64) -> u64 {
    (target * Z * Z / (1.0 - target)).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(score: Option<f64>, is_right: bool) -> JudgedBox {
        let verdict = if is_right { Verdict::Right } else { Verdict::Wrong };
        let (annotation_id, task_id, phrase) = (String::new(), String::new(), String::new());
        JudgedBox { annotation_id, task_id, entity: 0, index: 0, phrase, score, verdict }
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 5e-5, "{found} is not {expected}");
    }

    #[test]
    fn the_interval_is_wilsons() {
        // By hand, with z² = 3.841459. 8 of 10: centre (0.8 + 0.192073) / 1.384146 = 0.716740, half
        // 1.959964 · √(0.016 + 0.009604) / 1.384146 = 0.226578.
        let interval = wilson(8, 10).unwrap();
        close(interval.low, 0.4902);
        close(interval.high, 0.9433);
        // 10 of 10: 10 / 13.841459. 0 of 10: 3.841459 / 13.841459.
        let interval = wilson(10, 10).unwrap();
        close(interval.low, 0.7225);
        close(interval.high, 1.0);
        let interval = wilson(0, 10).unwrap();
        close(interval.low, 0.0);
        close(interval.high, 0.2775);
        // 95 of 100: centre (0.95 + 0.019207) / 1.038415 = 0.933353, half 1.959964 · √(0.000475 + 0.000096) / 1.038415.
        let interval = wilson(95, 100).unwrap();
        close(interval.low, 0.8882);
        close(interval.high, 0.9785);
        assert_eq!(wilson(0, 0), None);
    }

    #[test]
    fn seventy_three_right_boxes_are_the_fewest_that_assure_95_percent() {
        let right = |count| Precision::of(&vec![marked(Some(0.5), true); count], 0.95);
        let (few, enough) = (right(72), right(73));
        assert_eq!((few.needed, few.assured, few.is_too_small()), (73, None, true));
        let all = Some(Threshold { score: 0.5, share: Share { right: 73, wrong: 0 } });
        assert_eq!((enough.assured, enough.estimated, enough.is_too_small()), (all, all, false));
        assert!(few.estimated.is_some());
    }

    #[test]
    fn the_threshold_is_the_lowest_score_whose_boxes_and_all_above_reach_the_target() {
        // From the top: 100 right with 0.9; 5 wrong and 1 right with 0.8 (101 of 106 = 0.9528); 1 wrong with 0.7
        // (101 of 107 = 0.9439); 20 right with 0.6 (121 of 127 = 0.9528); 40 wrong with 0.2.
        let boxes: Vec<JudgedBox> = [(0.9, 100, 0), (0.8, 1, 5), (0.7, 0, 1), (0.6, 20, 0), (0.2, 0, 40)]
            .into_iter()
            .flat_map(|(score, right, wrong)| {
                let right = std::iter::repeat_n(marked(Some(score), true), right);
                right.chain(std::iter::repeat_n(marked(Some(score), false), wrong))
            })
            .chain([marked(None, true), marked(None, false)])
            .collect();
        let found = Precision::of(&boxes, 0.95);
        assert_eq!(found.estimated, Some(Threshold { score: 0.6, share: Share { right: 121, wrong: 6 } }));
        // The lower bound of 100 of 100 is 100 / 103.84 = 0.963; that of 101 of 106 is 0.894.
        assert_eq!(found.assured, Some(Threshold { score: 0.9, share: Share { right: 100, wrong: 0 } }));
        assert_eq!((found.all, found.without_score), (Share { right: 122, wrong: 47 }, Share { right: 1, wrong: 1 }));
        let counts: Vec<_> = found.bands.iter().map(|band| (band.share.right, band.share.wrong)).collect();
        let expected = [(0, 0), (0, 0), (0, 40), (0, 0), (0, 0), (0, 0), (20, 0), (0, 1), (1, 5), (100, 0)];
        assert_eq!(counts, expected);
        assert_eq!(Precision::of(&boxes, 0.99).assured, None);
    }

    #[test]
    fn nothing_marked_says_nothing_and_a_score_of_one_is_in_the_last_band() {
        let none = Precision::of(&[], 0.95);
        assert_eq!((none.all.precision(), none.all.interval(), none.estimated, none.assured), (None, None, None, None));
        let edges = [0.0, 0.1, 0.3, 0.6, 0.7, 1.0].map(|score| marked(Some(score), true));
        let bands = Precision::of(&edges, 0.95).bands;
        let filled: Vec<f64> = bands.iter().filter(|band| band.share.right > 0).map(|band| band.from).collect();
        assert_eq!(filled, [0.0, 0.1, 0.3, 0.6, 0.7, 0.9]);
    }
}
