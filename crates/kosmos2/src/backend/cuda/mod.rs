//! The CUDA backend: weights, keys and values in GPU memory, matrix products by cuBLAS and all else by our own kernels.
//! Steps of a decoding batch are recorded as CUDA graphs and replayed, and tokens are chosen on the GPU.
//!
//! Inputs and outputs of matrix products are in the weights' format. The residual stream, norms, softmax and logits are
//! f32.

mod computed;
mod decoder;
mod layer;
mod layers;
mod plan;
mod projection;
mod vision;
mod workspace;

use std::sync::Arc;
use std::time::Instant;

use kernels::cuda::{Device, KvFormat};

use super::embedding::ImageEmbedding;
use super::interface::{Backend, PreferredBatches};
use super::logits::{Logits, LogitsOutput, LogitsRequest};
use super::segment::{Segment, check_segments};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::Config;
use crate::error::ModelError;
use crate::processor::image::PixelValues;
use computed::Computed;
use decoder::{Decoder, RowOutput};
use projection::ImageToTextProjection;
use vision::VisionTower;

/// Pictures in one pass of the vision tower. Their 64 · 257 rows saturate any GPU.
const PICTURES: usize = 64;

/// Number of sequences beyond which throughput hardly grows, since steps are then bound by compute and memory.
const PREFERRED_SLOTS: usize = 1024;

/// Prompt tokens in a step, about 60 ms of work. Two thirds of the peak throughput are reached from 4,096 tokens on.
const PROMPT_TOKENS: usize = 8192;

/// The model on a GPU, computed in the format `T`, with keys and values stored in the format `S`.
pub(crate) struct CudaBackend<T, S = T> {
    device: Arc<Device>,
    vision: VisionTower<T>,
    projection: ImageToTextProjection<T>,
    decoder: Decoder<T, S>,
    image_size: usize,
    /// The rows of logits that the last pass downloaded.
    logits: Vec<f32>,
}

impl<T: Computed, S: KvFormat<T>> CudaBackend<T, S> {
    /// Uploads the weights of a checkpoint, which must have been opened in this format on the CPU.
    ///
    /// # Errors
    /// [`CheckpointError`] if a tensor is missing or has the wrong shape, the GPU has not enough memory, or no kernel
    /// supports the model's sizes.
    pub(crate) fn load(
        device: &Arc<Device>,
        checkpoint: &Checkpoint,
        config: &Config,
    ) -> Result<Self, CheckpointError> {
        let (root, started, free) = (checkpoint.root(), Instant::now(), device.memory()?.0);
        let backend = Self {
            device: Arc::clone(device),
            vision: VisionTower::load(device, &root.pp("vision_model.model"), &config.vision_config)?,
            projection: ImageToTextProjection::load(device, &root.pp("image_to_text_projection"), config)?,
            decoder: Decoder::load(device, &root.pp("text_model"), config)?,
            image_size: config.vision_config.image_size,
            logits: Vec::new(),
        };
        device.wait()?;
        let mib = free.saturating_sub(device.memory()?.0) >> 20;
        tracing::info!(mib, seconds = started.elapsed().as_secs_f64(), "weights uploaded to the GPU");
        Ok(backend)
    }

    fn run(&mut self, segments: &[Segment], requests: &[LogitsRequest]) -> Result<Vec<RowOutput>, ModelError> {
        let (slots, length) = self.decoder.kv_capacity();
        check_segments(segments, slots, length, self.decoder.vocabulary())?;
        Ok(self.decoder.forward(&self.device, segments, requests, &mut self.logits)?)
    }
}

impl<T: Computed, S: KvFormat<T>> Backend for CudaBackend<T, S> {
    fn image_embeddings(&mut self, pictures: &[&PixelValues]) -> Result<Vec<ImageEmbedding>, ModelError> {
        let side = self.image_size;
        if let Some(other) = pictures.iter().find(|pixels| pixels.size() != side) {
            return Err(ModelError::PictureSize { found: other.size(), expected: side });
        }
        let mut embeddings = Vec::with_capacity(pictures.len());
        for batch in pictures.chunks(PICTURES) {
            let features = self.vision.forward(&self.device, batch)?;
            embeddings.extend(self.projection.forward(&self.device, features, batch.len())?);
        }
        Ok(embeddings)
    }

    fn reserve(&mut self, slots: usize, length: usize) -> Result<(), ModelError> {
        Ok(self.decoder.reserve(&self.device, slots, length)?)
    }

    fn slot_bytes(&self, length: usize) -> u64 {
        self.decoder.slot_bytes(length) as u64
    }

    fn free_bytes(&self) -> Option<u64> {
        self.device.memory().ok().map(|(free, _)| free as u64)
    }

    fn forward(&mut self, segments: &[Segment]) -> Result<Logits<'_>, ModelError> {
        let rows = segments.iter().map(|segment| segment.logits.len()).sum();
        self.run(segments, &vec![LogitsRequest::Logits; rows])?;
        Ok(Logits::new(&self.logits, self.decoder.vocabulary()))
    }

    fn decode(
        &mut self,
        segments: &[Segment],
        requests: &[LogitsRequest],
    ) -> Result<Vec<LogitsOutput<'_>>, ModelError> {
        let outputs = self.run(segments, requests)?;
        let (logits, vocabulary) = (&self.logits, self.decoder.vocabulary());
        let output = |output| match output {
            RowOutput::Chosen(chosen) => LogitsOutput::Chosen(chosen),
            RowOutput::Logits(index) => LogitsOutput::Logits(&logits[index * vocabulary..][..vocabulary]),
        };
        Ok(outputs.into_iter().map(output).collect())
    }

    fn preferred_batches(&self) -> PreferredBatches {
        let jobs = PREFERRED_SLOTS + 4 * PICTURES;
        PreferredBatches {
            slots: PREFERRED_SLOTS,
            pictures: PICTURES,
            parallel_images: 1,
            prompt_tokens: PROMPT_TOKENS,
            jobs,
        }
    }

    fn wait(&mut self) -> Result<(), ModelError> {
        Ok(self.device.wait()?)
    }

    fn used_bytes(&self) -> Option<u64> {
        self.device.memory().ok().map(|(free, total)| (total - free) as u64)
    }
}
