//! The workspace's only unsafe code: memory maps, and kernels for the CPU and for CUDA. Every unsafe block states why it
//! is sound.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod cpu;
#[cfg(feature = "cuda-api")]
pub mod cuda;
pub mod mapped_file;
pub mod token_mask;

pub use mapped_file::MappedFile;
