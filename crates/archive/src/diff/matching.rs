//! Which boxes of two answers are the same.

use wire::v1::GroundedBox;

/// Left, top, right, bottom, in fractions of the picture.
pub(super) type Corners = [f64; 4];

/// A pair of boxes: indices into both lists, and their intersection over union.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Match {
    pub(super) a: usize,
    pub(super) b: usize,
    pub(super) iou: f64,
}

/// The corners in order: the model can generate them reversed.
pub(super) fn corners(found: &GroundedBox) -> Corners {
    let [x0, y0, x1, y1] = found.fractions.as_ref().map_or([0.0; 4], |b| [b.x0, b.y0, b.x1, b.y1]);
    [x0.min(x1), y0.min(y1), x0.max(x1), y0.max(y1)]
}

/// Intersection over union, from 0 to 1. Equal boxes have 1 even if they have no area.
pub(super) fn iou(a: &Corners, b: &Corners) -> f64 {
    if a == b {
        return 1.0;
    }
    let area = |[x0, y0, x1, y1]: &Corners| (x1 - x0) * (y1 - y0);
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let common = width * height;
    let all = area(a) + area(b) - common;
    if all > 0.0 { common / all } else { 0.0 }
}

/// Pairs boxes, the pair with the largest intersection over union first; each box has at most one partner. Boxes that do
/// not overlap are no pair.
pub(super) fn match_boxes(a: &[Corners], b: &[Corners]) -> Vec<Match> {
    let pairs = a
        .iter()
        .enumerate()
        .flat_map(|(i, left)| b.iter().enumerate().map(move |(j, right)| Match { a: i, b: j, iou: iou(left, right) }));
    let mut pairs: Vec<Match> = pairs.filter(|pair| pair.iou > 0.0).collect();
    // Equal values in the order of the boxes, so that the result is always the same.
    pairs.sort_by(|x, y| y.iou.total_cmp(&x.iou).then(x.a.cmp(&y.a)).then(x.b.cmp(&y.b)));
    let mut matched: Vec<Match> = Vec::new();
    for pair in pairs {
        if matched.iter().all(|other| other.a != pair.a && other.b != pair.b) {
            matched.push(pair);
        }
    }
    matched
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overlap_is_intersection_over_union() {
        let unit = [0.0, 0.0, 1.0, 1.0];
        assert_eq!(iou(&unit, &unit), 1.0);
        assert_eq!(iou(&unit, &[0.5, 0.0, 1.0, 1.0]), 0.5);
        // Two squares of side 2 that share one of side 1: 1 of 7.
        assert!((iou(&[0.0, 0.0, 0.2, 0.2], &[0.1, 0.1, 0.3, 0.3]) - 1.0 / 7.0).abs() < 1e-12);
        assert_eq!(iou(&[0.0, 0.0, 0.5, 0.5], &[0.5, 0.5, 1.0, 1.0]), 0.0);
        assert_eq!((iou(&[0.5; 4], &[0.5; 4]), iou(&[0.5; 4], &[0.6; 4])), (1.0, 0.0));
        assert_eq!(iou(&[f64::NAN; 4], &unit), 0.0);
    }

    #[test]
    fn the_best_pair_is_matched_first_and_each_box_once() {
        let a = [[0.0, 0.0, 0.4, 1.0], [0.1, 0.0, 0.5, 1.0]];
        let b = [[0.1, 0.0, 0.5, 1.0], [0.8, 0.0, 0.9, 1.0], [0.0, 0.0, 0.3, 1.0]];
        let found: Vec<_> = match_boxes(&a, &b).iter().map(|pair| (pair.a, pair.b, pair.iou)).collect();
        assert_eq!(found, [(1, 0, 1.0), (0, 2, 0.75)]);
        assert!(match_boxes(&a, &[]).is_empty());
    }
}
