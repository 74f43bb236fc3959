//! Boxes in text: the patch grid and the markup that names its cells.

pub mod grid;
pub mod markup;
pub mod score;

pub use grid::BoundingBox;
