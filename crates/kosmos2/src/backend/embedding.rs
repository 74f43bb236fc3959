//! Image embeddings.

use std::sync::Arc;

/// A picture as the decoder takes it: f32 rows `[queries, width]`, in the memory of the backend that computed it.
#[derive(Debug, Clone)]
pub struct ImageEmbedding {
    values: Values,
    width: usize,
}

#[derive(Debug, Clone)]
enum Values {
    Host(Arc<[f32]>),
    #[cfg(feature = "cuda-api")]
    Cuda(kernels::cuda::Buffer<f32>),
}

impl ImageEmbedding {
    /// Rows of `width` values each.
    pub(super) fn new(values: Vec<f32>, width: usize) -> Self {
        Self { values: Values::Host(values.into()), width }
    }

    /// Rows of `width` values each, in GPU memory.
    #[cfg(feature = "cuda-api")]
    pub(super) fn on_cuda(values: kernels::cuda::Buffer<f32>, width: usize) -> Self {
        Self { values: Values::Cuda(values), width }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        let values = match &self.values {
            Values::Host(values) => values.len(),
            #[cfg(feature = "cuda-api")]
            Values::Cuda(values) => values.len(),
        };
        values / self.width
    }

    /// The values of one row.
    ///
    /// # Panics
    /// If the index is out of bounds, or the rows are in GPU memory.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.as_slice()[index * self.width..][..self.width]
    }

    /// All rows, one after the other; empty if they are in GPU memory.
    pub fn as_slice(&self) -> &[f32] {
        match &self.values {
            Values::Host(values) => values,
            #[cfg(feature = "cuda-api")]
            Values::Cuda(_) => &[],
        }
    }

    /// The rows in GPU memory, if they are there.
    #[cfg(feature = "cuda-api")]
    pub(super) fn as_cuda(&self) -> Option<&kernels::cuda::Buffer<f32>> {
        match &self.values {
            Values::Host(_) => None,
            Values::Cuda(values) => Some(values),
        }
    }
}
