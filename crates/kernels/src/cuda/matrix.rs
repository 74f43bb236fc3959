//! Weight matrices in device memory.

use super::buffer::Buffer;
use super::device::CudaError;
use super::format::Format;

/// A weight matrix [outputs, inner], row-major.
#[derive(Debug, Clone)]
pub struct Matrix<T> {
    pub(super) values: Buffer<T>,
    outputs: usize,
    inner: usize,
}

impl<T: Format> Matrix<T> {
    /// A matrix of these values.
    ///
    /// # Errors
    /// [`CudaError::Size`] if there are not `outputs * inner` values; [`CudaError::Shape`] if `inner` is not a multiple of 8,
    /// which loads of 16 bytes need.
    pub fn new(values: Buffer<T>, outputs: usize, inner: usize) -> Result<Self, CudaError> {
        if values.len() != outputs * inner {
            return Err(CudaError::Size { what: "a matrix", found: values.len(), needed: outputs * inner });
        }
        if !inner.is_multiple_of(8) {
            return Err(CudaError::Shape { what: "a matrix row", found: inner, supported: "a multiple of 8" });
        }
        Ok(Self { values, outputs, inner })
    }

    /// Length of a row of the result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Length of a row of the input.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// The values.
    pub fn values(&self) -> &Buffer<T> {
        &self.values
    }
}
