//! Placement of labels: near their box, inside the picture, without overlaps.

/// An axis-aligned rectangle: left, top, width and height, in pixels of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) w: f64,
    pub(super) h: f64,
}

/// A label to place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LabelRequest {
    /// The label's box.
    pub(super) target: Rect,
    /// The label's width and height.
    pub(super) size: (f64, f64),
}

/// A label and its position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PlacedLabel {
    pub(super) label: Rect,
    /// Ends of a line from the label to its box, if the two do not touch.
    pub(super) leader: Option<[(f64, f64); 2]>,
}

/// With more placed labels than this, only the positions next to the box are tried: the search over all positions takes
/// time in the cube of their number, and so many labels are not readable anyway.
const MAX_SEARCHED: usize = 64;

/// The largest fraction of another box that a label next to its own box may cover.
const MAX_COVERED: f64 = 0.4;

/// Places labels in the given order: earlier ones get better positions. `None` for a label that does not fit: there is no
/// free position of its size in the `area` (width, height), or more than 64 labels are placed already.
pub(super) fn place(area: (f64, f64), requests: &[LabelRequest]) -> Vec<Option<PlacedLabel>> {
    let mut search = Search { area, requests, taken: Vec::new(), unplaceable: Vec::new() };
    requests.iter().map(|request| search.add(request)).collect()
}

struct Search<'a> {
    area: (f64, f64),
    requests: &'a [LabelRequest],
    taken: Vec<Rect>,
    /// Sizes that did not fit. Free space only shrinks, so they never will.
    unplaceable: Vec<(f64, f64)>,
}

impl Search<'_> {
    fn add(&mut self, request: &LabelRequest) -> Option<PlacedLabel> {
        let label = self.beside(request).or_else(|| self.anywhere(request))?;
        self.taken.push(label);
        let [from, to] = nearest_points(&label, &request.target);
        let leader = (distance(from, to) > 0.0).then_some([from, to]);
        Some(PlacedLabel { label, leader })
    }

    /// The first free position that touches the box: above it, at the top inside it if that covers little, below it, right
    /// of it, left of it.
    fn beside(&self, request: &LabelRequest) -> Option<Rect> {
        let (Rect { x, y, w, h }, (lw, lh)) = (request.target, request.size);
        let is_large = lw <= w && lh * 4.0 <= h;
        let inside = is_large.then_some([(x, y), (x + w - lw, y)]);
        let above = [(x, y - lh), (x + w - lw, y - lh)];
        let around = [(x, y + h), (x + w - lw, y + h), (x + w, y), (x - lw, y)];
        let spots = above.into_iter().chain(inside.into_iter().flatten()).chain(around);
        spots
            // Above and below a box at the picture's side, the label is shifted into the picture.
            .map(
                |(lx, ly)| if ly + lh <= y || ly >= y + h { (lx.min(self.area.0 - lw).max(0.0), ly) } else { (lx, ly) },
            )
            .map(|(x, y)| Rect { x, y, w: lw, h: lh })
            .find(|label| self.is_free(label) && !self.covers_others(label, request))
    }

    /// The free position with the lowest cost. If any position is free, so is one that the picture's edges or other labels
    /// keep from moving further left or up; so it is enough to try these edges, and those of the box to stay near it.
    fn anywhere(&mut self, request: &LabelRequest) -> Option<Rect> {
        let (w, h) = request.size;
        let is_smaller = |size: &(f64, f64)| size.0 <= w && size.1 <= h;
        if self.taken.len() > MAX_SEARCHED || self.unplaceable.iter().any(is_smaller) {
            return None;
        }
        let target = &request.target;
        let xs = candidates(self.area.0, w, (target.x, target.w), self.taken.iter().map(|t| (t.x, t.w)));
        let ys = candidates(self.area.1, h, (target.y, target.h), self.taken.iter().map(|t| (t.y, t.h)));
        let places = xs.iter().flat_map(|&x| ys.iter().map(move |&y| Rect { x, y, w, h }));
        let best = places
            .filter(|label| self.is_free(label))
            .map(|label| (self.cost(&label, target), label))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, label)| label);
        if best.is_none() {
            self.unplaceable.push(request.size);
        }
        best
    }

    /// The distance to the box, plus the covered area of all boxes as the length of a strip of the label's height.
    fn cost(&self, label: &Rect, target: &Rect) -> f64 {
        let [from, to] = nearest_points(label, target);
        let covered: f64 = self.requests.iter().map(|other| common(label, &other.target)).sum();
        distance(from, to) + covered / label.h
    }

    fn covers_others(&self, label: &Rect, request: &LabelRequest) -> bool {
        let others = self.requests.iter().filter(|other| other.target != request.target);
        others.map(|other| &other.target).any(|target| common(label, target) > MAX_COVERED * target.w * target.h)
    }

    fn is_free(&self, label: &Rect) -> bool {
        let inside =
            label.x >= 0.0 && label.y >= 0.0 && label.x + label.w <= self.area.0 && label.y + label.h <= self.area.1;
        inside && self.taken.iter().all(|taken| !overlap(label, taken))
    }
}

/// Positions to try on one axis for a label of length `size` in `0..length`.
fn candidates(length: f64, size: f64, target: (f64, f64), taken: impl Iterator<Item = (f64, f64)>) -> Vec<f64> {
    let last = length - size;
    let near = [target.0, target.0 - size, target.0 + target.1, target.0 + target.1 - size];
    let beside = taken.flat_map(|(start, extent)| [start + extent, start - size]);
    let mut all: Vec<f64> =
        [0.0, last].into_iter().chain(near).chain(beside).filter(|s| (0.0..=last).contains(s)).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    all
}

/// Whether two rectangles overlap. Rectangles that only touch do not.
pub(super) fn overlap(a: &Rect, b: &Rect) -> bool {
    a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h
}

/// The area of two rectangles' intersection.
fn common(a: &Rect, b: &Rect) -> f64 {
    let across = (a.x + a.w).min(b.x + b.w) - a.x.max(b.x);
    let down = (a.y + a.h).min(b.y + b.h) - a.y.max(b.y);
    across.max(0.0) * down.max(0.0)
}

/// The points of `a` and `b` that are nearest to each other; the same point if they touch.
fn nearest_points(a: &Rect, b: &Rect) -> [(f64, f64); 2] {
    let axis = |a0: f64, a1: f64, b0: f64, b1: f64| {
        let (low, high) = (a0.max(b0), a1.min(b1));
        if low <= high {
            let middle = f64::midpoint(low, high);
            (middle, middle)
        } else if a1 < b0 {
            (a1, b0)
        } else {
            (a0, b1)
        }
    };
    let (ax, bx) = axis(a.x, a.x + a.w, b.x, b.x + b.w);
    let (ay, by) = axis(a.y, a.y + a.h, b.y, b.y + b.h);
    [(ax, ay), (bx, by)]
}

fn distance(a: (f64, f64), b: (f64, f64)) -> f64 {
    (a.0 - b.0).hypot(a.1 - b.1)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn rect(x: f64, y: f64, w: f64, h: f64) -> Rect {
        Rect { x, y, w, h }
    }

    fn one(area: (f64, f64), target: Rect) -> Option<Rect> {
        place(area, &[LabelRequest { target, size: (30.0, 10.0) }])[0].map(|placed| placed.label)
    }

    #[test]
    fn a_lone_label_takes_the_first_place_that_has_room() {
        let area = (100.0, 100.0);
        assert_eq!(one(area, rect(20.0, 20.0, 50.0, 50.0)), Some(rect(20.0, 10.0, 30.0, 10.0)), "above");
        assert_eq!(one(area, rect(90.0, 20.0, 10.0, 50.0)), Some(rect(70.0, 10.0, 30.0, 10.0)), "above, moved in");
        assert_eq!(one(area, rect(20.0, 0.0, 50.0, 50.0)), Some(rect(20.0, 0.0, 30.0, 10.0)), "inside at the top");
        assert_eq!(one(area, rect(20.0, 0.0, 20.0, 50.0)), Some(rect(20.0, 50.0, 30.0, 10.0)), "below");
        assert_eq!(one(area, rect(20.0, 0.0, 20.0, 100.0)), Some(rect(40.0, 0.0, 30.0, 10.0)), "right");
        assert_eq!(one(area, rect(80.0, 0.0, 20.0, 100.0)), Some(rect(50.0, 0.0, 30.0, 10.0)), "left");
        assert_eq!(one((29.0, 100.0), rect(0.0, 0.0, 9.0, 9.0)), None, "wider than the picture");
    }

    #[test]
    fn a_label_far_from_its_box_has_a_line_to_it() {
        let crowd = LabelRequest { target: rect(40.0, 40.0, 20.0, 20.0), size: (60.0, 20.0) };
        let placed = place((100.0, 100.0), &[crowd; 5]);
        assert!(placed.iter().all(Option::is_some));
        let [from, to] = placed.iter().find_map(|p| p.and_then(|p| p.leader)).expect("five do not all fit around");
        assert!(distance(from, to) > 0.0 && (40.0..=60.0).contains(&to.0) && (40.0..=60.0).contains(&to.1));
    }

    /// Whether a label of `size` fits, found by trying every whole position: all sizes in the test are whole numbers.
    fn room(area: (f64, f64), size: (f64, f64), taken: &[Rect]) -> bool {
        (0..=(area.0 - size.0) as i64).any(|x| {
            (0..=(area.1 - size.1) as i64).any(|y| {
                let label = rect(x as f64, y as f64, size.0, size.1);
                taken.iter().all(|t| !overlap(&label, t))
            })
        })
    }

    #[test]
    fn random_labels_keep_apart_and_inside_and_only_those_without_room_are_left_out() {
        let mut random = StdRng::seed_from_u64(7);
        let (mut placed_count, mut dropped) = (0, 0);
        for _ in 0..400 {
            let (w, h) = (random.random_range(30..400), random.random_range(20..300));
            let area = (f64::from(w), f64::from(h));
            let wanted: Vec<LabelRequest> = (0..random.random_range(0..=30))
                .map(|_| {
                    let (x, y) = (random.random_range(0..w), random.random_range(0..h));
                    let target = [x, y, random.random_range(1..=w - x), random.random_range(1..=h - y)].map(f64::from);
                    let size = (f64::from(random.random_range(8..160)), f64::from(random.random_range(8..24)));
                    LabelRequest { target: rect(target[0], target[1], target[2], target[3]), size }
                })
                .collect();
            let mut taken: Vec<Rect> = Vec::new();
            for (one, placed) in wanted.iter().zip(place(area, &wanted)) {
                let Some(PlacedLabel { label, .. }) = placed else {
                    dropped += 1;
                    let fits = one.size.0 <= area.0 && one.size.1 <= area.1;
                    assert!(!fits || !room(area, one.size, &taken), "{one:?} had room in {area:?}");
                    continue;
                };
                placed_count += 1;
                assert_eq!((label.w, label.h), one.size);
                assert!(label.x >= 0.0 && label.y >= 0.0 && label.x + label.w <= area.0 && label.y + label.h <= area.1);
                assert!(taken.iter().all(|t| !overlap(&label, t)), "{label:?} lies on another");
                taken.push(label);
            }
        }
        // Both branches must have been seen, or the test shows nothing.
        assert!(placed_count > 1000 && dropped > 100, "{placed_count} placed, {dropped} left out");
    }

    #[test]
    fn hundreds_of_labels_end_in_time() {
        let crowd = LabelRequest { target: rect(400.0, 400.0, 200.0, 200.0), size: (60.0, 20.0) };
        assert_eq!(place((4000.0, 4000.0), &[crowd; 1000]).len(), 1000);
    }
}
