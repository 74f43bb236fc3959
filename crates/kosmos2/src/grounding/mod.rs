//! Boxes in text: the patch grid, the markup that names its cells, and the grammar that keeps it readable.

pub mod confidence;
pub mod corner;
pub mod grammar;
pub mod grid;
pub mod markup;

pub use grid::BoundingBox;
