//! NVIDIA cards: weights and keys and values on the card, kernels of our own around cuBLAS's products, the step of a
//! decoding batch recorded once and replayed, and tokens chosen on the card.
//!
//! What products read and give is in the computing format; the residual stream, norms, softmax and logits are f32.

mod decoder;
mod layers;
mod plan;
mod projection;
mod vision;
mod workspace;

use std::sync::Arc;
use std::time::Instant;

use candle_core::WithDType;
use kernels::cuda::{Device, Format, KvFormat};

use super::{Backend, ImageEmbedding, Logits, LogitsOutput, LogitsRequest, PreferredBatches, Segment, check_segments};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::Config;
use crate::error::ModelError;
use crate::processor::image::PixelValues;
use decoder::{Answer, Decoder};
use projection::ImageToTextProjection;
use vision::VisionTower;

/// Pictures that go through the vision tower together: their 64 · 257 rows fill any card.
const PICTURES: usize = 64;

/// Sequences that more of bring next to nothing: each step then takes as long as its products and reads do.
const USEFUL_SLOTS: usize = 1024;

/// Tokens of new prompts in a step, some 60 ms of work: two thirds of the peak are reached from 4,096 on.
const PROMPT_TOKENS: usize = 8192;

/// Number formats that weights are kept and products are computed in.
pub trait Computed: Format + WithDType {}

impl<T: Format + WithDType> Computed for T {}

/// The model on a card, computed in one number format, with keys and values kept in that or another.
pub struct CudaBackend<T, S = T> {
    device: Arc<Device>,
    vision: VisionTower<T>,
    projection: ImageToTextProjection<T>,
    decoder: Decoder<T, S>,
    image_size: usize,
    /// The last step's logits, of rows that they were wanted for.
    logits: Vec<f32>,
}

impl<T: Computed, S: KvFormat<T>> CudaBackend<T, S> {
    /// Puts the weights of a checkpoint, opened in this format on the CPU, on the card.
    ///
    /// # Errors
    /// [`CheckpointError`] when a tensor is missing or misshapen, the card has no room, or no kernel serves the model's
    /// sizes.
    pub fn load(device: &Arc<Device>, checkpoint: &Checkpoint, config: &Config) -> Result<Self, CheckpointError> {
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
        tracing::info!(mib, seconds = started.elapsed().as_secs_f64(), "weights are on the card");
        Ok(backend)
    }

    fn run(&mut self, segments: &[Segment], requests: &[LogitsRequest]) -> Result<Vec<Answer>, ModelError> {
        let (slots, length) = self.decoder.kv_capacity();
        check_segments(segments, slots, length, self.decoder.vocabulary())?;
        Ok(self.decoder.forward(&self.device, segments, requests, &mut self.logits)?)
    }
}

impl<T: Computed, S: KvFormat<T>> Backend for CudaBackend<T, S> {
    fn image_embeddings(&mut self, pictures: &[&PixelValues]) -> Result<Vec<ImageEmbedding>, ModelError> {
        let side = self.image_size;
        if let Some(odd) = pictures.iter().find(|pixels| pixels.size() != side) {
            return Err(ModelError::PictureSize { found: odd.size(), expected: side });
        }
        let mut embeddings = Vec::with_capacity(pictures.len());
        for some in pictures.chunks(PICTURES) {
            let features = self.vision.forward(&self.device, some)?;
            embeddings.extend(self.projection.forward(&self.device, features, some.len())?);
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
        let answers = self.run(segments, requests)?;
        let (logits, vocabulary) = (&self.logits, self.decoder.vocabulary());
        let row = |answer| match answer {
            Answer::Chosen(chosen) => LogitsOutput::Chosen(chosen),
            Answer::Logits(index) => LogitsOutput::Logits(&logits[index * vocabulary..][..vocabulary]),
        };
        Ok(answers.into_iter().map(row).collect())
    }

    fn preferred_batches(&self) -> PreferredBatches {
        let jobs = USEFUL_SLOTS + 4 * PICTURES;
        PreferredBatches {
            slots: USEFUL_SLOTS,
            pictures: PICTURES,
            parallel_images: 1,
            prompt_tokens: PROMPT_TOKENS,
            jobs,
        }
    }

    fn wait(&mut self) -> Result<(), ModelError> {
        Ok(self.device.wait()?)
    }

    fn taken_bytes(&self) -> Option<u64> {
        self.device.memory().ok().map(|(free, all)| (all - free) as u64)
    }
}
