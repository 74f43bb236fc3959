//! Kernel arguments and launches.

use super::buffer::Buffer;
use super::device::{CudaError, Device};
use super::driver::LaunchShape;
use super::format::{Element, Format};
use super::matrix::Matrix;

/// A kernel argument.
pub(super) trait Argument {
    /// The argument's bytes, padded to 8 bytes in little-endian order.
    fn bits(&self) -> u64;
    /// Keeps the argument's memory alive for the step being recorded, if any.
    fn keep_alive(&self, _: &Device) {}
}

impl Argument for i32 {
    fn bits(&self) -> u64 {
        u64::from(self.cast_unsigned())
    }
}

impl Argument for u32 {
    fn bits(&self) -> u64 {
        u64::from(*self)
    }
}

impl Argument for u64 {
    fn bits(&self) -> u64 {
        *self
    }
}

impl Argument for f32 {
    fn bits(&self) -> u64 {
        u64::from(self.to_bits())
    }
}

impl<T: Element> Argument for Buffer<T> {
    fn bits(&self) -> u64 {
        self.address()
    }

    fn keep_alive(&self, device: &Device) {
        device.keep_alive(self);
    }
}

impl<T: Format> Argument for Matrix<T> {
    fn bits(&self) -> u64 {
        self.values().bits()
    }

    fn keep_alive(&self, device: &Device) {
        self.values().keep_alive(device);
    }
}

impl<A: Argument> Argument for Option<&A> {
    fn bits(&self) -> u64 {
        self.map_or(0, Argument::bits)
    }

    fn keep_alive(&self, device: &Device) {
        self.iter().for_each(|argument| argument.keep_alive(device));
    }
}

/// A size as a kernel argument.
pub(super) fn int(size: usize) -> Result<i32, CudaError> {
    i32::try_from(size).map_err(|_| CudaError::Range { what: "a size", found: size, limit: i32::MAX as usize })
}

/// Number of blocks of a launch, in three dimensions.
pub(super) type Grid = (usize, usize, usize);

impl Device {
    /// Launches a kernel with `threads` threads per block. Does nothing if the grid is empty.
    ///
    /// # Safety
    /// The arguments are the kernel's parameters in order, and the kernel accesses only memory within the buffers among
    /// them.
    pub(super) unsafe fn launch(
        &self,
        kernel: &str,
        grid: Grid,
        threads: usize,
        arguments: &[&dyn Argument],
    ) -> Result<(), CudaError> {
        if grid.0 * grid.1 * grid.2 == 0 {
            return Ok(());
        }
        let words: Vec<u64> = arguments.iter().map(|argument| argument.bits()).collect();
        arguments.iter().for_each(|argument| argument.keep_alive(self));
        let size = |size: usize| int(size).map(i32::cast_unsigned);
        let shape = LaunchShape { grid: (size(grid.0)?, size(grid.1)?, size(grid.2)?), threads: size(threads)? };
        // SAFETY: guaranteed by the caller. CUDA's hosts are little-endian: a shorter argument is in the first bytes.
        Ok(unsafe { self.driver.launch(kernel, shape, &words) }?)
    }
}
