//! Rows of image embeddings as inputs of the decoder.

use super::buffer::Buffer;
use super::device::{CudaError, Device};

/// For each row of a step, the row of an image embedding that replaces the token's embedding, if any.
pub struct ImageRows {
    pub(super) addresses: Buffer<u64>,
    pub(super) width: usize,
    pub(super) count: usize,
    /// The embeddings that the addresses point into.
    _held: Vec<Buffer<f32>>,
}

impl ImageRows {
    /// A table for `capacity` rows of `width` values, none of which is replaced yet.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the device is out of memory.
    pub fn new(device: &Device, capacity: usize, width: usize) -> Result<Self, CudaError> {
        Ok(Self { addresses: device.zeros(capacity)?, width, count: 0, _held: Vec::new() })
    }

    /// Sets the entries of a step: an image embedding and one of its rows, or `None`.
    ///
    /// # Errors
    /// [`CudaError::Range`] if an embedding has no such row; [`CudaError::Driver`] if the upload fails.
    pub fn set(&mut self, device: &Device, rows: &[Option<(&Buffer<f32>, usize)>]) -> Result<(), CudaError> {
        let mut addresses = Vec::with_capacity(rows.len());
        let mut held: Vec<Buffer<f32>> = Vec::new();
        for row in rows {
            let Some((embedding, index)) = row else {
                addresses.push(0);
                continue;
            };
            let limit = embedding.len() / self.width;
            if *index >= limit {
                return Err(CudaError::Range { what: "a row of an image embedding", found: *index, limit });
            }
            addresses.push(embedding.address() + (index * self.width * size_of::<f32>()) as u64);
            if !held.last().is_some_and(|last| last.shares_memory_with(embedding)) {
                held.push((*embedding).clone());
            }
        }
        device.upload(&addresses, &self.addresses)?;
        self.count = rows.len();
        // Memory is freed in stream order, after the kernels that read it.
        self._held = held;
        Ok(())
    }
}
