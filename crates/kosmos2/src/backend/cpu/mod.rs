//! The CPU: weights packed once for the hand-written kernels, f32 activations, buffers kept from step to step.

mod decoder;
mod layers;
mod projection;
mod threads;
mod vision;

use kernels::cpu::WeightFormat;

use super::{Backend, ImageEmbedding, Logits, LogitsOutput, LogitsRequest, PreferredBatches, Segment, check_segments};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::Config;
use crate::error::ModelError;
use crate::processor::image::PixelValues;
use decoder::Decoder;
use projection::ImageToTextProjection;
use threads::{PerThread, SingleThread};
use vision::VisionTower;

/// The model in packed weights.
pub struct CpuBackend {
    vision: VisionTower,
    projection: ImageToTextProjection,
    decoder: Decoder,
    image_size: usize,
    threads: PerThread,
    buffers: PictureBuffers,
    lone: SingleThread<PictureBuffers>,
}

/// What a picture's pass needs beside the weights.
#[derive(Default)]
struct PictureBuffers {
    vision: vision::Buffers,
    projection: projection::Buffers,
}

impl CpuBackend {
    /// Takes the weights from a checkpoint opened in f32 on the CPU, and packs them in `format`.
    ///
    /// # Errors
    /// [`CheckpointError`] when a tensor is missing or misshapen.
    pub fn load(checkpoint: &Checkpoint, config: &Config, format: WeightFormat) -> Result<Self, CheckpointError> {
        let root = checkpoint.root();
        // Few of the products, and all that the decoder gets of a picture goes through them: with activations of one byte
        // they would make a quarter of the squared error.
        let projection_format = if format == WeightFormat::W8A8 { WeightFormat::Int8 } else { format };
        Ok(Self {
            // The largest tensor first: while it is packed it is held twice.
            decoder: Decoder::load(&root.pp("text_model"), config, format)?,
            vision: VisionTower::load(&root.pp("vision_model.model"), &config.vision_config, format)?,
            projection: ImageToTextProjection::load(&root.pp("image_to_text_projection"), config, projection_format)?,
            image_size: config.vision_config.image_size,
            threads: PerThread::default(),
            buffers: PictureBuffers::default(),
            lone: SingleThread::default(),
        })
    }
}

impl Backend for CpuBackend {
    fn image_embeddings(&mut self, pictures: &[&PixelValues]) -> Result<Vec<ImageEmbedding>, ModelError> {
        let expected = self.image_size;
        if let Some(other) = pictures.iter().find(|pixels| pixels.size() != expected) {
            return Err(ModelError::PictureSize { found: other.size(), expected });
        }
        let parallel_images = self.preferred_batches().parallel_images;
        let Self { vision, projection, threads, buffers, lone, .. } = self;
        // One picture at a time: its 257 rows fill the kernels, and more would only push the buffers out of the cache.
        let one = |pixels: &PixelValues, threads: &mut PerThread, buffers: &mut PictureBuffers| {
            let features = vision.forward(pixels.as_slice(), &mut buffers.vision, threads);
            projection.forward(features, &mut buffers.projection, threads)
        };
        // Where a thread can take a picture by itself, those that are left over are shared by all.
        let (apart, together) =
            pictures.split_at(if parallel_images > 1 { pictures.len() / parallel_images * parallel_images } else { 0 });
        let mut embeddings = lone.share(apart.to_vec(), |pixels, threads, buffers| one(pixels, threads, buffers));
        embeddings.extend(together.iter().map(|pixels| one(pixels, threads, buffers)));
        Ok(embeddings)
    }

    fn preferred_batches(&self) -> PreferredBatches {
        let parallel_images = if self.vision.is_small() { rayon::current_num_threads() } else { 1 };
        PreferredBatches { parallel_images, ..PreferredBatches::OF_A_CPU }
    }

    fn reserve(&mut self, slots: usize, length: usize) -> Result<(), ModelError> {
        self.decoder.reserve(slots, length);
        Ok(())
    }

    fn slot_bytes(&self, length: usize) -> u64 {
        self.decoder.slot_bytes(length)
    }

    fn free_bytes(&self) -> Option<u64> {
        available_memory()
    }

    fn forward(&mut self, segments: &[Segment]) -> Result<Logits<'_>, ModelError> {
        let (slots, length) = self.decoder.kv_capacity();
        check_segments(segments, slots, length, self.decoder.vocabulary())?;
        Ok(self.decoder.forward(segments, &mut self.threads))
    }

    fn decode(
        &mut self,
        segments: &[Segment],
        requests: &[LogitsRequest],
    ) -> Result<Vec<LogitsOutput<'_>>, ModelError> {
        let (slots, length) = self.decoder.kv_capacity();
        check_segments(segments, slots, length, self.decoder.vocabulary())?;
        Ok(self.decoder.decode(segments, requests, &mut self.threads))
    }
}

/// What the kernel says could be given without swapping, in bytes; within a memory-limited container, what is left of
/// its limit where that is less.
fn available_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024;
    let number = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let limit = number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current"));
    Some(limit.map_or(available, |(max, used)| available.min(max.saturating_sub(used))))
}
