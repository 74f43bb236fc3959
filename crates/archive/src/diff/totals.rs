//! Counts of a comparison.

/// Sum and number of values.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Mean {
    /// Number of values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

/// The overlaps that are counted separately.
pub const IOU_LEVELS: [f64; 3] = [0.5, 0.75, 0.9];

/// Counts of the pictures of both datasets. `a` is the first dataset, `b` the second.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Totals {
    /// Pictures of both datasets.
    pub pictures: u64,
    /// Those whose annotations are equal in texts, phrases and boxes.
    pub pictures_equal: u64,
    /// Pictures of `a` only.
    pub pictures_only_a: u64,
    /// Pictures of `b` only.
    pub pictures_only_b: u64,
    /// Objects that both have, with different bytes: they count as pictures of `a` only and of `b` only.
    pub objects_changed: u64,
    /// Earlier annotations of a picture that a later one of the same dataset replaces.
    pub replaced: u64,
    /// Messages that are not annotations.
    pub unreadable: u64,
    /// Results of tasks of both.
    pub results: u64,
    /// Those with equal texts.
    pub texts_equal: u64,
    /// Results of tasks that only `a` has.
    pub results_only_a: u64,
    /// Results of tasks that only `b` has.
    pub results_only_b: u64,
    /// Phrases of `a`.
    pub phrases_a: u64,
    /// Phrases of `b`.
    pub phrases_b: u64,
    /// Phrases of `b` that `a` does not have.
    pub phrases_gained: u64,
    /// Phrases of `a` that `b` does not have.
    pub phrases_lost: u64,
    /// Boxes of `a`.
    pub boxes_a: u64,
    /// Boxes of `b`.
    pub boxes_b: u64,
    /// Intersection over union of the matched boxes.
    pub iou: Mean,
    /// Matched boxes with at least these overlaps: [`IOU_LEVELS`].
    pub iou_levels: [u64; 3],
    /// Scores of the boxes of `a`.
    pub score_a: Mean,
    /// Scores of the boxes of `b`.
    pub score_b: Mean,
    /// Scores of `b` minus those of `a`, of matched boxes.
    pub score_difference: Mean,
}

impl Mean {
    pub(super) fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
    }

    fn join(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
    }

    /// The mean; `None` without values.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

impl Totals {
    pub(super) fn add_iou_level(&mut self, iou: f64) {
        for (count, level) in self.iou_levels.iter_mut().zip(IOU_LEVELS) {
            *count += u64::from(iou >= level);
        }
    }

    /// Adds the counts of one picture.
    pub(super) fn join(&mut self, other: &Self) {
        let Self {
            pictures,
            pictures_equal,
            pictures_only_a,
            pictures_only_b,
            objects_changed,
            replaced,
            unreadable,
            results,
            texts_equal,
            results_only_a,
            results_only_b,
            phrases_a,
            phrases_b,
            phrases_gained,
            phrases_lost,
            boxes_a,
            boxes_b,
            iou,
            iou_levels,
            score_a,
            score_b,
            score_difference,
        } = other;
        for (sum, value) in [
            (&mut self.pictures, pictures),
            (&mut self.pictures_equal, pictures_equal),
            (&mut self.pictures_only_a, pictures_only_a),
            (&mut self.pictures_only_b, pictures_only_b),
            (&mut self.objects_changed, objects_changed),
            (&mut self.replaced, replaced),
            (&mut self.unreadable, unreadable),
            (&mut self.results, results),
            (&mut self.texts_equal, texts_equal),
            (&mut self.results_only_a, results_only_a),
            (&mut self.results_only_b, results_only_b),
            (&mut self.phrases_a, phrases_a),
            (&mut self.phrases_b, phrases_b),
            (&mut self.phrases_gained, phrases_gained),
            (&mut self.phrases_lost, phrases_lost),
            (&mut self.boxes_a, boxes_a),
            (&mut self.boxes_b, boxes_b),
        ] {
            *sum += value;
        }
        for (sum, value) in self.iou_levels.iter_mut().zip(iou_levels) {
            *sum += value;
        }
        for (sum, value) in [
            (&mut self.iou, iou),
            (&mut self.score_a, score_a),
            (&mut self.score_b, score_b),
            (&mut self.score_difference, score_difference),
        ] {
            sum.join(value);
        }
    }
}
