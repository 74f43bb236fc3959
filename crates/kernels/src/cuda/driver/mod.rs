//! Drivers that run the kernels: a GPU or, to test the rest of the module without one, the host. Both have the same
//! interface. Addresses and sizes are in bytes. Nothing is checked here.

#[cfg(feature = "cuda")]
mod gpu;
#[cfg(not(feature = "cuda"))]
mod host;

#[cfg(feature = "cuda")]
pub(super) use gpu::{Driver, Event, Memory, Pinned, Recording};
#[cfg(not(feature = "cuda"))]
pub(super) use host::{Driver, Event, Memory, Pinned, Recording};

use super::format::DataType;

/// A failed call of the CUDA driver or cuBLAS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {reason}")]
pub struct DriverError {
    /// What was attempted.
    pub call: &'static str,
    /// The driver's error.
    pub reason: String,
}

/// `y = x Wᵀ` for W [outputs, inner], x [rows, inner] and y [rows, outputs], whose rows are `stride` values apart. Sums are
/// f32.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gemm {
    pub(super) weights: u64,
    pub(super) x: u64,
    pub(super) y: u64,
    /// Format of the weights and of x.
    pub(super) data_type: DataType,
    /// Format of y.
    pub(super) result_type: DataType,
    pub(super) outputs: i32,
    pub(super) rows: i32,
    pub(super) inner: i32,
    pub(super) stride: i32,
}

/// Number of blocks in three dimensions, and threads per block.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaunchShape {
    pub(super) grid: (u32, u32, u32),
    pub(super) threads: u32,
}
