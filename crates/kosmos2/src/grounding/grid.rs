//! Cells of the 32×32 patch grid and the boxes they stand for.

/// A box as fractions of the picture's width and height, 0…1 from the top left corner.
///
/// The model can name corners in the wrong order; they stay as named, so `x1 < x0` can happen.
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
