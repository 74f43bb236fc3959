//! Boxes in text: the patch grid, the markup that names its cells, and the grammar of well-formed markup.

pub(crate) mod confidence;
pub(crate) mod corner;
pub mod grammar;
pub(crate) mod grid;
pub mod markup;

pub use corner::CornerEstimate;
pub use grid::BoundingBox;
