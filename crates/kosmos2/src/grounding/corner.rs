//! Sub-cell corners, interpolated from the probabilities of the patch tokens.

use super::grid::GRID_SIDE;

/// Number of cells on each side of the chosen cell that are included. Cells farther away are corners of other objects.
const RADIUS: i64 = 2;

/// An estimated corner. Integers are the centres of cells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CornerEstimate {
    /// Expected column, in cells.
    pub column: f32,
    /// Expected row, in cells.
    pub row: f32,
}

impl CornerEstimate {
    /// The mean of the cells around the chosen one, weighted by the softmax of their logits. `scores` has the logits of
    /// all patch tokens, in grid order.
    pub fn around(chosen: u32, scores: &[f32]) -> Self {
        let side = i64::from(GRID_SIDE);
        let (column, row) = (i64::from(chosen) % side, i64::from(chosen) / side);
        let best = scores.get(chosen as usize).copied().unwrap_or(0.0);
        let (mut total, mut x, mut y) = (0f64, 0f64, 0f64);
        for r in (row - RADIUS).max(0)..=(row + RADIUS).min(side - 1) {
            for c in (column - RADIUS).max(0)..=(column + RADIUS).min(side - 1) {
                let Some(score) = scores.get((r * side + c) as usize) else { continue };
                let weight = f64::from(score - best).exp();
                total += weight;
                x += weight * c as f64;
                y += weight * r as f64;
            }
        }
        if !(total.is_finite() && total > 0.0) {
            return Self { column: column as f32, row: row as f32 };
        }
        Self { column: (x / total) as f32, row: (y / total) as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sure_corner_is_its_cell_and_a_doubtful_one_lies_between() {
        let mut scores = vec![-50f32; 1024];
        scores[5 * 32 + 7] = 10.0;
        assert_eq!(CornerEstimate::around(5 * 32 + 7, &scores), CornerEstimate { column: 7.0, row: 5.0 });
        scores[5 * 32 + 8] = 10.0;
        let between = CornerEstimate::around(5 * 32 + 7, &scores);
        assert!((between.column - 7.5).abs() < 1e-6 && (between.row - 5.0).abs() < 1e-6);
    }

    #[test]
    fn other_things_far_away_do_not_pull() {
        let mut scores = vec![-50f32; 1024];
        scores[0] = 10.0;
        scores[1023] = 10.0;
        let first = CornerEstimate::around(0, &scores);
        assert!(first.column < 1e-6 && first.row < 1e-6, "{first:?}");
    }
}
