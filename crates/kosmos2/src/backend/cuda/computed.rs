//! Number formats of the CUDA backend.

use candle_core::WithDType;
use kernels::cuda::Format;

/// A number format in which weights are stored and products are computed.
pub(crate) trait Computed: Format + WithDType {}

impl<T: Format + WithDType> Computed for T {}
