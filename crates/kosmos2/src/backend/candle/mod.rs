//! The plain candle implementation, on the CPU and on CUDA. The hand-written kernels are tested against it.

mod decoder;
mod layers;
mod projection;
mod vision;

use candle_core::{DType, Device, Tensor};

use super::embedding::ImageEmbedding;
use super::interface::Backend;
use super::logits::Logits;
use super::segment::{Segment, check_segments};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::Config;
use crate::error::ModelError;
use crate::processor::image::PixelValues;
use decoder::Decoder;
use projection::ImageToTextProjection;
use vision::VisionTower;

/// The model as candle tensors.
pub(crate) struct CandleBackend {
    vision: VisionTower,
    projection: ImageToTextProjection,
    decoder: Decoder,
    image_size: usize,
    dtype: DType,
    device: Device,
    /// The logits of the last pass.
    logits: Vec<f32>,
}

impl CandleBackend {
    /// Loads the weights of a checkpoint, on its device and in its dtype.
    ///
    /// # Errors
    /// [`CheckpointError`] if a tensor is missing or has the wrong shape.
    pub(crate) fn load(checkpoint: &Checkpoint, config: &Config) -> Result<Self, CheckpointError> {
        let root = checkpoint.root();
        Ok(Self {
            vision: VisionTower::load(&root.pp("vision_model.model"), &config.vision_config)?,
            projection: ImageToTextProjection::load(&root.pp("image_to_text_projection"), config)?,
            decoder: Decoder::load(&root.pp("text_model"), config)?,
            image_size: config.vision_config.image_size,
            dtype: checkpoint.dtype(),
            device: checkpoint.device().clone(),
            logits: Vec::new(),
        })
    }
}

impl Backend for CandleBackend {
    fn image_embeddings(&mut self, pictures: &[&PixelValues]) -> Result<Vec<ImageEmbedding>, ModelError> {
        let side = self.image_size;
        if let Some(other) = pictures.iter().find(|pixels| pixels.size() != side) {
            return Err(ModelError::PictureSize { found: other.size(), expected: side });
        }
        let pixels: Vec<f32> = pictures.iter().flat_map(|p| p.as_slice()).copied().collect();
        let pixels = Tensor::from_vec(pixels, (pictures.len(), 3, side, side), &self.device)?.to_dtype(self.dtype)?;
        let embeddings = self.projection.forward(&self.vision.forward(&pixels)?)?.to_dtype(DType::F32)?;
        let width = embeddings.dim(2)?;
        let image_embedding = |embedding: Vec<Vec<f32>>| ImageEmbedding::new(embedding.concat(), width);
        Ok(embeddings.to_vec3()?.into_iter().map(image_embedding).collect())
    }

    fn reserve(&mut self, slots: usize, length: usize) -> Result<(), ModelError> {
        Ok(self.decoder.reserve(slots, length)?)
    }

    fn slot_bytes(&self, length: usize) -> u64 {
        self.decoder.slot_bytes(length)
    }

    fn free_bytes(&self) -> Option<u64> {
        free_device_bytes(&self.device)
    }

    fn forward(&mut self, segments: &[Segment]) -> Result<Logits<'_>, ModelError> {
        let (slots, length) = self.decoder.kv_capacity();
        let vocabulary = self.decoder.vocabulary()?;
        check_segments(segments, slots, length, vocabulary)?;
        let logits = self.decoder.forward(segments)?;
        self.logits = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(Logits::new(&self.logits, vocabulary))
    }
}

#[cfg(feature = "candle-cuda")]
fn free_device_bytes(device: &Device) -> Option<u64> {
    match device {
        Device::Cuda(_) => {
            candle_core::cuda_backend::cudarc::driver::result::mem_get_info().ok().map(|(free, _)| free as u64)
        }
        _ => None,
    }
}

#[cfg(not(feature = "candle-cuda"))]
fn free_device_bytes(_: &Device) -> Option<u64> {
    None
}
