//! Kernels for NVIDIA GPUs, and the device, stream, buffers, cuBLAS products and recorded steps that they need. With the
//! feature `cuda-on-host` instead of `cuda` everything runs on the host, for tests: the kernels are compiled from the same
//! source by the C++ compiler.
//!
//! Soundness: all work of a [`Device`] is in one stream, in order, so no two kernels access a buffer at once. Device
//! memory is never borrowed by Rust code, only copied. Launchers check the sizes of their buffers against what the kernel
//! will access. Indices that kernels read from device memory (rows, slots, tokens) are written only by the types of
//! [`index_tables`], which check them. A recorded step keeps its buffers alive.

mod attention;
mod buffer;
mod device;
mod driver;
mod format;
mod image_rows;
pub mod index_tables;
mod launch;
mod matrix;
mod product;
pub mod rates;
mod rows;
mod select_token;
mod staging;

pub use attention::{Attention, Contexts, KeyValueCache, NewTokens, Splits};
pub use buffer::Buffer;
pub use device::{CudaError, Device, Graph};
pub use driver::DriverError;
pub use format::{DataType, Element, Format, KvFormat};
pub use image_rows::ImageRows;
pub use matrix::Matrix;
pub use product::ProductKernel;
pub use rows::{Embedding, Norm, Residual};
pub use select_token::SelectedToken;
pub use staging::Staging;
