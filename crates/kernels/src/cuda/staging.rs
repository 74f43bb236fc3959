//! Pinned host memory for uploading large inputs.

use std::marker::PhantomData;

use super::buffer::Buffer;
use super::device::{CudaError, Device, check_len};
use super::driver::{Event, Pinned};
use super::format::Element;

/// Values in pinned host memory, which the GPU copies at the full rate of the bus while the host continues. From pageable
/// memory the driver would copy in pieces, after all earlier work, and the host would wait.
#[derive(Debug)]
pub struct Staging<T> {
    pinned: Pinned,
    /// Completes when the GPU has read the last upload.
    read: Option<Event>,
    values: PhantomData<T>,
}

impl<T: Element> Staging<T> {
    /// Pinned memory for `len` values.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the host is out of memory.
    pub fn new(device: &Device, len: usize) -> Result<Self, CudaError> {
        Ok(Self { pinned: device.driver.pinned(len * size_of::<T>())?, read: None, values: PhantomData })
    }

    /// The values, for writing. Waits until the GPU has read the last upload.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if earlier work of the device failed.
    pub fn values_mut(&mut self) -> Result<&mut [T], CudaError> {
        self.wait()?;
        let bytes = self.pinned.bytes_mut();
        // SAFETY: the driver aligns its allocations for every number format; every bit pattern is a valid value.
        Ok(unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<T>()) })
    }

    /// Queues the copy of the first `len` values to the start of a buffer.
    ///
    /// # Errors
    /// [`CudaError::Size`] if either is shorter; [`CudaError::Driver`] if the copy fails.
    pub fn upload(&mut self, device: &Device, len: usize, to: &Buffer<T>) -> Result<(), CudaError> {
        let bytes = self.pinned.bytes();
        check_len("the staging buffer", bytes.len() / size_of::<T>(), len)?;
        check_len("the target of an upload", to.len(), len)?;
        // SAFETY: both are long enough; `values_mut` and `drop` wait for the copy to complete.
        unsafe { device.driver.upload(&bytes[..len * size_of::<T>()], to.address()) }?;
        match device.driver.event() {
            Ok(read) => self.read = Some(read),
            // Without an event to wait for later, wait now.
            Err(_) => device.driver.wait()?,
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), CudaError> {
        match self.read.take() {
            Some(read) => Ok(read.wait()?),
            None => Ok(()),
        }
    }
}

impl<T> Drop for Staging<T> {
    fn drop(&mut self) {
        // The GPU may still be reading. If waiting fails, the device has failed and reads no more.
        if let Some(read) = self.read.take() {
            let _ = read.wait();
        }
    }
}
