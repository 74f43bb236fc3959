//! Cells of the 32×32 patch grid and the boxes they stand for.

/// Cells on each side of the grid.
pub(crate) const GRID_SIDE: u32 = kernels::token_mask::GRID_SIDE;

/// Cells of the grid, which is also the number of patch tokens.
pub(crate) const GRID_CELLS: u32 = GRID_SIDE * GRID_SIDE;

/// A box in fractions of the picture's width and height, 0 to 1 from the top left corner.
///
/// The model can generate corners in the wrong order. They are not swapped, so `x1` can be less than `x0`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundingBox {
    /// Left.
    pub x0: f64,
    /// Top.
    pub y0: f64,
    /// Right.
    pub x1: f64,
    /// Bottom.
    pub y1: f64,
}

impl BoundingBox {
    /// The area of the intersection divided by the area of the union, 0 to 1. A box with corners in the wrong order has
    /// no area.
    pub fn intersection_over_union(&self, other: &Self) -> f64 {
        let area = |b: &Self| (b.x1 - b.x0).max(0.0) * (b.y1 - b.y0).max(0.0);
        let intersection = Self {
            x0: self.x0.max(other.x0),
            y0: self.y0.max(other.y0),
            x1: self.x1.min(other.x1),
            y1: self.y1.min(other.y1),
        };
        let union = area(self) + area(other) - area(&intersection);
        if union > 0.0 { area(&intersection) / union } else { 0.0 }
    }
}

/// A cell by column and row. Patch indices beyond the grid have rows below it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cell {
    pub(crate) column: f64,
    pub(crate) row: f64,
}

/// The box between two cells, by the reference's rule: corners are in the centres of their cells, except that the box
/// covers the whole cells if both are in the same row or column.
pub(crate) fn box_between(upper_left: Cell, lower_right: Cell) -> BoundingBox {
    let size = 1.0 / f64::from(GRID_SIDE);
    let flat = upper_left.column == lower_right.column || upper_left.row == lower_right.row;
    let (before, after) = if flat { (0.0, size) } else { (size / 2.0, size / 2.0) };
    BoundingBox {
        x0: upper_left.column * size + before,
        y0: upper_left.row * size + before,
        x1: lower_right.column * size + after,
        y1: lower_right.row * size + after,
    }
}

/// The patch indices of a box `[x0, y0, x1, y1]` in fractions: the cell that contains its upper left corner, and the
/// last cell that it reaches. Not clipped to the grid, as in the reference. `None` if corners are out of order or not
/// finite.
pub(crate) fn patches_of([x0, y0, x1, y1]: [f64; 4]) -> Option<(i64, i64)> {
    if !(x1 > x0 && y1 > y0 && [x0, y0, x1, y1].iter().all(|c| c.is_finite())) {
        return None;
    }
    let side = f64::from(GRID_SIDE);
    let index = |column: f64, row: f64| (row as i64).saturating_mul(GRID_SIDE.into()).saturating_add(column as i64);
    let first = |c: f64| (c * side).floor();
    let last = |c: f64| (c * side - 1.0).ceil();
    Some((index(first(x0), first(y0)), index(last(x1), last(y1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_overlap_by_the_area_they_share() {
        let whole = BoundingBox { x0: 0.0, y0: 0.0, x1: 1.0, y1: 1.0 };
        let quarter = BoundingBox { x1: 0.5, y1: 0.5, ..whole };
        let swapped = BoundingBox { x0: 0.5, x1: 0.0, ..whole };
        assert_eq!(whole.intersection_over_union(&whole), 1.0);
        assert_eq!(whole.intersection_over_union(&quarter), 0.25);
        assert_eq!(swapped.intersection_over_union(&swapped), 0.0);
    }

    #[test]
    fn the_whole_picture_is_the_first_and_the_last_cell() {
        assert_eq!(patches_of([0.0, 0.0, 1.0, 1.0]), Some((0, 1023)));
    }

    #[test]
    fn corners_out_of_order_or_not_finite_name_no_cells() {
        for invalid in
            [[0.5, 0.5, 0.25, 0.75], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, f64::NAN, 1.0], [0.0, 0.0, f64::INFINITY, 1.0]]
        {
            assert_eq!(patches_of(invalid), None);
        }
    }

    #[test]
    fn a_box_within_one_row_or_column_covers_its_cells_in_full() {
        let cell = |column, row| Cell { column, row };
        let same_row = box_between(cell(3.0, 2.0), cell(7.0, 2.0));
        assert_eq!((same_row.y0, same_row.y1), (2.0 / 32.0, 3.0 / 32.0));
        let square = box_between(cell(0.0, 0.0), cell(1.0, 1.0));
        assert_eq!((square.x0, square.x1), (0.5 / 32.0, 1.5 / 32.0));
    }
}
