//! The way of large inputs to the card.

use std::marker::PhantomData;

use super::buffer::Buffer;
use super::device::{CudaError, Device, at_least};
use super::driver::{Event, Pinned};
use super::format::Element;

/// Values of the host that the card copies by itself, at the full rate of the bus, while the host goes on. From plain
/// memory the driver would copy piece by piece with the host waiting, behind all work before.
#[derive(Debug)]
pub struct Staging<T> {
    pinned: Pinned,
    /// When the card will have read what was uploaded last.
    read: Option<Event>,
    values: PhantomData<T>,
}

impl<T: Element> Staging<T> {
    /// Room for `len` values.
    ///
    /// # Errors
    /// The driver's, where the host has no room.
    pub fn new(device: &Device, len: usize) -> Result<Self, CudaError> {
        Ok(Self { pinned: device.driver.pinned(len * size_of::<T>())?, read: None, values: PhantomData })
    }

    /// The values, to be written; waits until the card has read those before.
    ///
    /// # Errors
    /// Whatever went wrong in the work before.
    pub fn values_mut(&mut self) -> Result<&mut [T], CudaError> {
        self.wait()?;
        let bytes = self.pinned.bytes_mut();
        // SAFETY: the driver aligns what it gives for any number; every pattern of bits is a value.
        Ok(unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<T>()) })
    }

    /// The first `len` values to the front of a buffer, by the card, in the order of its work.
    ///
    /// # Errors
    /// [`CudaError::Size`] where either is shorter, or the driver's.
    pub fn upload(&mut self, device: &Device, len: usize, to: &Buffer<T>) -> Result<(), CudaError> {
        let bytes = self.pinned.bytes();
        at_least("staged values", bytes.len() / size_of::<T>(), len)?;
        at_least("an upload's target", to.len(), len)?;
        // SAFETY: both are long enough; `values_mut` and `drop` wait for the moment behind the copy.
        unsafe { device.driver.upload(&bytes[..len * size_of::<T>()], to.address()) }?;
        match device.driver.event() {
            Ok(read) => self.read = Some(read),
            // Without a moment to wait for later, now.
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
        // The card may still be reading. Where waiting fails the card does nothing any more.
        if let Some(read) = self.read.take() {
            let _ = read.wait();
        }
    }
}
