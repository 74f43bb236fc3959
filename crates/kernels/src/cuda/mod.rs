//! Kernels for NVIDIA cards, and what is needed to run them: a device with its stream, buffers, matrix products by
//! cuBLAS, and recorded steps. With the feature `cuda-on-host` in place of `cuda` everything runs on the host, for
//! checks: the kernels from the same source, compiled by the C++ compiler.
//!
//! What makes it sound: all work of a [`Device`] goes through one stream, in order, so no two kernels touch a buffer at
//! once, and device memory is never borrowed by Rust code, only copied. Launchers check the sizes of their buffers
//! against what the kernel will touch; what kernels look up in device memory, rows, slots and tokens, gets there only
//! through the types of [`tables`], which check it when it is set. A recorded step keeps its buffers alive.

mod attention;
mod buffer;
mod choose;
mod device;
mod driver;
mod format;
mod launch;
mod pictures;
mod product;
pub mod rates;
mod rows;
mod staging;
pub mod tables;

pub use attention::{Attention, Contexts, KeyValueCache, NewTokens, Splits};
pub use buffer::Buffer;
pub use choose::Chosen;
pub use device::{CudaError, Device, Graph};
pub use driver::DriverError;
pub use format::{Element, Format, Kept, Kind};
pub use pictures::Pictures;
pub use product::{Matrix, Way};
pub use rows::{Embedding, Norm, Residual};
pub use staging::Staging;
