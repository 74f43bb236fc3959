//! The CPU backend: weights packed for the hand-written kernels, f32 activations, keys and values in f32 beside f32
//! weights and in bf16 beside all others, buffers reused from step to step.

mod decoder;
mod layers;
mod projection;
mod rows;
mod threads;
mod vision;

use kernels::cpu::WeightFormat;

use super::embedding::ImageEmbedding;
use super::interface::{Backend, PreferredBatches};
use super::logits::{Logits, LogitsOutput, LogitsRequest};
use super::segment::{Segment, check_segments};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::Config;
use crate::error::ModelError;
use crate::processor::image::PixelValues;
use decoder::Decoder;
use projection::ImageToTextProjection;
use threads::{ParallelPasses, PassThreads};
use vision::VisionTower;

/// The model with packed weights.
pub(crate) struct CpuBackend {
    vision: VisionTower,
    projection: ImageToTextProjection,
    decoder: Decoder,
    image_size: usize,
    threads: PassThreads,
    buffers: VisionBuffers,
    parallel: ParallelPasses<VisionBuffers>,
}

/// Buffers of the vision tower and the projection.
#[derive(Default)]
struct VisionBuffers {
    vision: vision::Buffers,
    projection: projection::Buffers,
}

impl CpuBackend {
    /// Packs the weights of a checkpoint, which must have been opened in f32 on the CPU, in `format`.
    ///
    /// # Errors
    /// [`CheckpointError`] if a tensor is missing or has the wrong shape.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        config: &Config,
        format: WeightFormat,
    ) -> Result<Self, CheckpointError> {
        let root = checkpoint.root();
        // The projection is a small part of the work, but the whole image embedding goes through it: with 8-bit
        // activations it would cause a quarter of the squared error.
        let projection_format = if format == WeightFormat::W8A8 { WeightFormat::Int8 } else { format };
        Ok(Self {
            // The largest tensor first: two copies of it exist while it is packed.
            decoder: Decoder::load(&root.pp("text_model"), config, format)?,
            vision: VisionTower::load(&root.pp("vision_model.model"), &config.vision_config, format)?,
            projection: ImageToTextProjection::load(&root.pp("image_to_text_projection"), config, projection_format)?,
            image_size: config.vision_config.image_size,
            threads: PassThreads::default(),
            buffers: VisionBuffers::default(),
            parallel: ParallelPasses::default(),
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
        let Self { vision, projection, threads, buffers, parallel, .. } = self;
        // One picture at a time: its 257 rows suffice for the kernels, and more would evict the buffers from the cache.
        let encode = |pixels: &PixelValues, threads: &mut PassThreads, buffers: &mut VisionBuffers| {
            let features = vision.forward(pixels.as_slice(), &mut buffers.vision, threads);
            projection.forward(features, &mut buffers.projection, threads)
        };
        // If threads encode a picture each, all threads share each of the remaining ones.
        let (one_each, rest) =
            pictures.split_at(if parallel_images > 1 { pictures.len() / parallel_images * parallel_images } else { 0 });
        let mut embeddings =
            parallel.run(one_each.to_vec(), |pixels, threads, buffers| encode(pixels, threads, buffers));
        embeddings.extend(rest.iter().map(|pixels| encode(pixels, threads, buffers)));
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

/// Memory in bytes that Linux reports as available without swapping, or what is left of the control group's limit, if
/// that is less.
fn available_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024;
    let number = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let limit = number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current"));
    Some(limit.map_or(available, |(max, used)| available.min(max.saturating_sub(used))))
}
