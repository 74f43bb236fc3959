//! Arguments of kernels, and their launch.

use super::buffer::Buffer;
use super::device::{CudaError, Device};
use super::driver::Shape;
use super::format::{Element, Format};
use super::product::Matrix;

/// What a kernel is given, as it lies in memory; shorter values lie in the first bytes.
pub(super) trait Argument {
    fn bits(&self) -> u64;
    fn keep(&self, _: &Device) {}
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

    fn keep(&self, device: &Device) {
        device.keep(self);
    }
}

impl<T: Format> Argument for Matrix<T> {
    fn bits(&self) -> u64 {
        self.values.bits()
    }

    fn keep(&self, device: &Device) {
        self.values.keep(device);
    }
}

impl<A: Argument> Argument for Option<&A> {
    fn bits(&self) -> u64 {
        self.map_or(0, Argument::bits)
    }

    fn keep(&self, device: &Device) {
        self.iter().for_each(|argument| argument.keep(device));
    }
}

/// A size as kernels take it.
pub(super) fn int(size: usize) -> Result<i32, CudaError> {
    i32::try_from(size).map_err(|_| CudaError::Range { what: "a size", found: size, limit: i32::MAX as usize })
}

/// Blocks of a launch, in three dimensions.
pub(super) type Grid = (usize, usize, usize);

impl Device {
    /// Launches a kernel; nothing where the grid is empty.
    ///
    /// # Safety
    /// The arguments are those of the kernel, in order, and all that it touches lies within the buffers among them.
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
        arguments.iter().for_each(|argument| argument.keep(self));
        let size = |size: usize| int(size).map(i32::cast_unsigned);
        let shape = Shape { grid: (size(grid.0)?, size(grid.1)?, size(grid.2)?), threads: size(threads)? };
        // SAFETY: the caller's. Machines that CUDA runs on are little-endian: a shorter argument stands in the first bytes.
        Ok(unsafe { self.driver.launch(kernel, shape, &words) }?)
    }
}
