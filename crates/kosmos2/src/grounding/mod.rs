//! Boxes in text: the patch grid, the markup that names its cells, and the grammar that keeps it readable.

pub mod corner;
pub mod grammar;
pub mod grid;
pub mod markup;
pub mod score;

pub use grid::BoundingBox;
