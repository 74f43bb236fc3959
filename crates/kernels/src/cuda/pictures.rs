//! Pictures' rows where the decoder finds them.

use super::buffer::Buffer;
use super::device::{CudaError, Device};

/// For each row of a step, whether a picture's row takes the token's place.
pub struct Pictures {
    pub(super) addresses: Buffer<u64>,
    pub(super) width: usize,
    pub(super) count: usize,
    /// What the addresses point into.
    _held: Vec<Buffer<f32>>,
}

impl Pictures {
    /// Room for so many rows of `width` values; none is a picture's.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(device: &Device, capacity: usize, width: usize) -> Result<Self, CudaError> {
        Ok(Self { addresses: device.zeros(capacity)?, width, count: 0, _held: Vec::new() })
    }

    /// Sets the entries of a step: a picture's values and which of its rows, or none.
    ///
    /// # Errors
    /// [`CudaError::Range`] where a picture has no such row.
    pub fn set(&mut self, device: &Device, rows: &[Option<(&Buffer<f32>, usize)>]) -> Result<(), CudaError> {
        let mut addresses = Vec::with_capacity(rows.len());
        let mut held: Vec<Buffer<f32>> = Vec::new();
        for row in rows {
            let Some((picture, index)) = row else {
                addresses.push(0);
                continue;
            };
            let limit = picture.len() / self.width;
            if *index >= limit {
                return Err(CudaError::Range { what: "a picture's row", found: *index, limit });
            }
            addresses.push(picture.address() + (index * self.width * size_of::<f32>()) as u64);
            if !held.last().is_some_and(|last| last.shares_memory_with(picture)) {
                held.push((*picture).clone());
            }
        }
        device.upload(&addresses, &self.addresses)?;
        self.count = rows.len();
        // Frees of what was held before go through the same stream, behind the kernels that read it.
        self._held = held;
        Ok(())
    }
}
