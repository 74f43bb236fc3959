//! processor/image

/// A picture as the vision tower takes it: f32 `[3, 224, 224]`, normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelValues(Vec<f32>);
