//! Where a tensor is stored.

use std::ops::Range;

use candle_core::DType;

/// Where a tensor is stored, and how.
pub(super) struct TensorLocation {
    /// Index of the shard.
    pub(super) shard: usize,
    /// The dtype, or the name of an unsupported one.
    pub(super) dtype: Result<DType, String>,
    pub(super) shape: Vec<usize>,
    /// Strides in elements; `None` if the tensor is contiguous in row-major order.
    pub(super) strides: Option<Vec<usize>>,
    /// Range of bytes in the shard.
    pub(super) bytes: Range<usize>,
}
