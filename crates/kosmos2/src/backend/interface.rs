//! The trait that every backend implements.

use super::embedding::ImageEmbedding;
use super::logits::{Logits, LogitsOutput, LogitsRequest};
use super::segment::Segment;
use crate::error::ModelError;
use crate::processor::image::PixelValues;

/// Batch sizes that use a device well. Larger ones add latency and hardly any throughput.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreferredBatches {
    /// Sequences decoded together.
    pub slots: usize,
    /// Pictures in one pass of the vision tower.
    pub pictures: usize,
    /// Pictures that are encoded in parallel; with fewer, part of the device is idle. At least 1.
    pub parallel_images: usize,
    /// Prompt tokens in one step. They delay the active sequences.
    pub prompt_tokens: usize,
    /// Jobs that a worker processes at once, from download to publishing. Enough to keep the device busy, and no more,
    /// since other workers cannot take them.
    pub jobs: usize,
}

impl PreferredBatches {
    /// Values for CPUs, and for backends that do not override them. A step reads all weights once for all slots, so that
    /// throughput grows with the slots until the arithmetic of a step takes much longer than reading them;
    /// `docs/performance.md` has the measurements.
    pub const OF_A_CPU: Self = Self { slots: 32, pictures: 8, parallel_images: 1, prompt_tokens: 1024, jobs: 40 };
}

/// A loaded model on one device, with the keys and values of the sequences being decoded.
pub trait Backend: Send {
    /// Encodes pictures; one embedding for each.
    ///
    /// # Errors
    /// [`ModelError::PictureSize`] if a picture does not have the model's size, or an error of the device.
    fn image_embeddings(&mut self, pictures: &[&PixelValues]) -> Result<Vec<ImageEmbedding>, ModelError>;

    /// Allocates `slots` slots of `length` tokens each. The contents of existing slots are lost.
    ///
    /// # Errors
    /// [`ModelError`] if the device has not enough memory.
    fn reserve(&mut self, slots: usize, length: usize) -> Result<(), ModelError>;

    /// Size of one slot of `length` tokens, in bytes.
    fn slot_bytes(&self, length: usize) -> u64;

    /// Free memory of the device in bytes, if known.
    fn free_bytes(&self) -> Option<u64>;

    /// Runs the segments' tokens through the decoder. A segment may be repeated until the next segment of its slot has
    /// run: it writes the same keys and values to the same places.
    ///
    /// # Errors
    /// [`ModelError`] if a segment does not fit into its slot, has an unknown token or does not match its picture, or
    /// the device fails.
    fn forward(&mut self, segments: &[Segment]) -> Result<Logits<'_>, ModelError>;

    /// Like [`Self::forward`], but returns for each row of logits what its request asks for. `requests` has one entry
    /// for each row. A backend may always return the whole row, which is the default implementation.
    ///
    /// # Errors
    /// The errors of [`Self::forward`].
    fn decode(
        &mut self,
        segments: &[Segment],
        requests: &[LogitsRequest],
    ) -> Result<Vec<LogitsOutput<'_>>, ModelError> {
        let _ = requests;
        let logits = self.forward(segments)?;
        Ok(logits.rows(0..logits.len()).into_iter().map(LogitsOutput::Logits).collect())
    }

    /// Batch sizes that use the device well, if its memory suffices.
    fn preferred_batches(&self) -> PreferredBatches {
        PreferredBatches::OF_A_CPU
    }

    /// Waits until the device has finished all submitted work. Needed only to measure time.
    ///
    /// # Errors
    /// [`ModelError`] if that work failed.
    fn wait(&mut self) -> Result<(), ModelError> {
        Ok(())
    }

    /// Whether the device is a GPU.
    fn is_gpu(&self) -> bool {
        false
    }

    /// Used memory of the device in bytes; `None` for the CPU, where the operating system reports it.
    fn used_bytes(&self) -> Option<u64> {
        None
    }
}
