//! The three parts put together: pictures to image embeddings, and a batch of prompts to tokens, step by step.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::{Config, ConfigError, GenerationConfig};
use crate::generation::{FinishReason, GenerationOptions, OptionsError};
use crate::processor::image::PixelValues;
use crate::projection::ImageToTextProjection;
use crate::sampling::Sampler;
use crate::text::{Decoder, KvCache, last_column, prompt_mask, step_mask};
use crate::vision::VisionTower;

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its config.json or generation_config.json.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Why a generation failed.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// An option is out of its range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The model gave no finite logits.
    #[error("the model's logits are not finite; the weights are damaged or the computing dtype is too narrow for them")]
    NotFinite,
    /// A prompt that does not fit its picture.
    #[error("the prompt has {found} image placeholders, but the picture has {expected} embeddings")]
    Placeholders {
        /// Marked places in the prompt.
        found: usize,
        /// Latent queries of the model.
        expected: usize,
    },
    /// A prompt of no tokens.
    #[error("the prompt has no tokens; ask for special tokens or give some text")]
    EmptyPrompt,
    /// A tensor operation failed.
    #[error("the computation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// A loaded KOSMOS-2, in tensors.
pub struct Model {
    config: Config,
    vision: VisionTower,
    projection: ImageToTextProjection,
    decoder: Decoder,
    end_tokens: Vec<u32>,
    dtype: DType,
    device: Device,
}

impl Model {
    /// Loads the configuration and the weights of a model directory.
    ///
    /// Tensors that the model does not know are named in a warning and passed over.
    ///
    /// # Errors
    /// [`LoadError`], naming the file and the tensor.
    pub fn load(dir: &Path, dtype: DType, device: &Device) -> Result<Self, LoadError> {
        let config = Config::from_dir(dir)?;
        let mut end_tokens = GenerationConfig::from_dir(dir)?.end_tokens().to_vec();
        end_tokens.push(config.text_config.eos_token_id);
        let checkpoint = Checkpoint::open(dir, dtype, device)?;
        let root = checkpoint.root();
        let model = Self {
            vision: VisionTower::load(&root.pp("vision_model.model"), &config.vision_config)?,
            projection: ImageToTextProjection::load(&root.pp("image_to_text_projection"), &config)?,
            decoder: Decoder::load(&root.pp("text_model"), &config)?,
            config,
            end_tokens,
            dtype,
            device: device.clone(),
        };
        let surplus = checkpoint.surplus();
        if !surplus.is_empty() {
            tracing::warn!(dir = %dir.display(), tensors = surplus.join(", "), "the checkpoint holds tensors that KOSMOS-2 does not have; they are ignored");
        }
        Ok(model)
    }

    /// The configuration loaded.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The vision tower.
    pub fn vision(&self) -> &VisionTower {
        &self.vision
    }

    /// The projection of vision features.
    pub fn projection(&self) -> &ImageToTextProjection {
        &self.projection
    }

    /// The language model.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Pictures to image embeddings [B, queries, width].
    ///
    /// # Errors
    /// candle's, when the device fails or a picture has another size than the model's.
    pub fn image_embeddings(&self, pictures: &[&PixelValues]) -> Result<Tensor, ModelError> {
        let side = self.config.vision_config.image_size;
        let pixels: Vec<f32> = pictures.iter().flat_map(|p| p.as_slice()).copied().collect();
        let pixels = Tensor::from_vec(pixels, (pictures.len(), 3, side, side), &self.device)?.to_dtype(self.dtype)?;
        Ok(self.projection.forward(&self.vision.forward(&pixels)?)?)
    }

    /// The decoder's input [T, D] for one prompt: token embeddings, the marked places overwritten by image
    /// embeddings [queries, D], scaled, positions added.
    ///
    /// # Errors
    /// When the number of marked places is not the picture's number of embeddings, or the device fails.
    pub fn embed_prompt(&self, ids: &[u32], image: Option<&ImagePlaces>) -> Result<Tensor, ModelError> {
        let mut embedded = self.decoder.embed(ids)?;
        if let Some(ImagePlaces { embeddings, mask }) = image {
            embedded = overwrite_marked(&embedded, embeddings, mask)?;
        }
        Ok(self.decoder.with_positions(&embedded, &self.decoder.positions(ids, 0))?)
    }
}

/// A picture's embeddings and where they go in the prompt.
#[derive(Debug, Clone)]
pub struct ImagePlaces {
    /// [queries, D].
    pub embeddings: Tensor,
    /// 1 for each prompt token that an embedding overwrites, in order; 0 elsewhere.
    pub mask: Vec<u8>,
}

/// Rows of `embedded` [T, D] whose mask is set, replaced by the rows of `image`, runs at a time.
fn overwrite_marked(embedded: &Tensor, image: &Tensor, mask: &[u8]) -> Result<Tensor, ModelError> {
    let (found, expected) = (mask.iter().filter(|&&m| m != 0).count(), image.dim(0)?);
    if found != expected {
        return Err(ModelError::Placeholders { found, expected });
    }
    let (mut runs, mut start, mut used) = (Vec::new(), 0, 0);
    for run in mask.chunk_by(|a, b| (*a != 0) == (*b != 0)) {
        if run[0] == 0 {
            runs.push(embedded.narrow(0, start, run.len())?);
        } else {
            runs.push(image.narrow(0, used, run.len())?);
            used += run.len();
        }
        start += run.len();
    }
    Ok(Tensor::cat(&runs, 0)?)
}

/// One prompt to continue.
#[derive(Debug, Clone)]
pub struct BatchRow {
    /// Token ids of the prompt, image placeholders included.
    pub prompt: Vec<u32>,
    /// The picture, if the prompt has one.
    pub image: Option<ImagePlaces>,
    /// How to continue it.
    pub options: GenerationOptions,
}

/// What a row came to.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedTokens {
    /// New ids, `</s>` included where it was reached.
    pub token_ids: Vec<u32>,
    /// Natural-log probability of each under the model's own logits.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Prompts decoded together, padded on the left. No row's result depends on the others.
pub struct Batch<'m> {
    model: &'m Model,
    rows: Vec<Row>,
    /// Rows that go on, as indices into `rows`, in the order of the cache's rows.
    active: Vec<usize>,
    cache: KvCache,
    /// Logits [active, vocabulary] of the last column.
    logits: Tensor,
}

struct Row {
    ids: Vec<u32>,
    prompt_len: usize,
    logprobs: Vec<f32>,
    pads: usize,
    sampler: Sampler,
    max_new_tokens: usize,
    finish_reason: Option<FinishReason>,
}

impl<'m> Batch<'m> {
    /// Runs the prompts through the decoder (prefill). `prompts` must not be empty.
    ///
    /// # Errors
    /// [`ModelError`] when a prompt or its options cannot be served, or the device fails.
    pub fn start(model: &'m Model, prompts: Vec<BatchRow>) -> Result<Self, ModelError> {
        let longest = prompts.iter().map(|row| row.prompt.len()).max().unwrap_or(0);
        if prompts.iter().any(|row| row.prompt.is_empty()) || longest == 0 {
            return Err(ModelError::EmptyPrompt);
        }
        let (mut rows, mut inputs) = (Vec::with_capacity(prompts.len()), Vec::with_capacity(prompts.len()));
        for BatchRow { prompt, image, options } in prompts {
            let (input, pads) = (model.embed_prompt(&prompt, image.as_ref())?, longest - prompt.len());
            inputs.push(input.pad_with_zeros(0, pads, 0)?);
            rows.push(Row {
                prompt_len: prompt.len(),
                ids: prompt,
                logprobs: Vec::new(),
                pads,
                sampler: Sampler::new(&options)?,
                max_new_tokens: options.max_new_tokens,
                finish_reason: None,
            });
        }
        let pads: Vec<usize> = rows.iter().map(|row| row.pads).collect();
        let mask = prompt_mask(&pads, longest, model.dtype, &model.device)?;
        let mut cache = model.decoder.new_cache();
        let hidden = model.decoder.forward(&Tensor::stack(&inputs, 0)?, Some(&mask), &mut cache)?;
        let logits = model.decoder.logits(&last_column(&hidden)?)?;
        Ok(Self { model, active: (0..rows.len()).collect(), rows, cache, logits })
    }

    /// Chooses the next token of every row that goes on, and computes the logits after it. `false` once all have ended.
    ///
    /// # Errors
    /// [`ModelError`] when the logits are not finite or the device fails.
    pub fn step(&mut self) -> Result<bool, ModelError> {
        let logits: Vec<Vec<f32>> = self.logits.to_dtype(DType::F32)?.to_vec2()?;
        for (&index, logits) in self.active.iter().zip(&logits) {
            self.rows[index].push_next(logits, &self.model.end_tokens)?;
        }
        let going_on = |&(_, &index): &(usize, &usize)| self.rows[index].finish_reason.is_none();
        let kept: Vec<(usize, &usize)> = self.active.iter().enumerate().filter(going_on).collect();
        let (places, active): (Vec<u32>, Vec<usize>) = kept.into_iter().map(|(p, &index)| (p as u32, index)).unzip();
        if active.is_empty() {
            self.active = active;
            return Ok(false);
        }
        if active.len() < self.active.len() {
            self.cache.keep_rows(&places)?;
        }
        self.active = active;
        self.logits = self.advance()?;
        Ok(true)
    }

    /// Puts each active row's newest token through the decoder.
    fn advance(&mut self) -> Result<Tensor, ModelError> {
        let Model { decoder, dtype, device, .. } = self.model;
        let rows = || self.active.iter().map(|&index| &self.rows[index]);
        let newest: Vec<u32> = rows().filter_map(|row| row.ids.last().copied()).collect();
        // The newest token's position counts the non-pad ids of its whole row.
        let positions: Vec<usize> = rows().filter_map(|row| decoder.positions(&row.ids, 0).last().copied()).collect();
        let input = decoder.with_positions(&decoder.embed(&newest)?, &positions)?.unsqueeze(1)?; // [B, 1, D]
        let pads: Vec<usize> = rows().map(|row| row.pads).collect();
        let mask = step_mask(&pads, self.cache.len() + 1, *dtype, device)?;
        let hidden = decoder.forward(&input, mask.as_ref(), &mut self.cache)?;
        Ok(decoder.logits(&last_column(&hidden)?)?)
    }

    /// What every row came to, in the order given; a row that was still going on counts as cut.
    pub fn finish(self) -> Vec<GeneratedTokens> {
        let tokens = |row: Row| GeneratedTokens {
            token_ids: row.ids[row.prompt_len..].to_vec(),
            logprobs: row.logprobs,
            finish_reason: row.finish_reason.unwrap_or(FinishReason::Length),
        };
        self.rows.into_iter().map(tokens).collect()
    }
}

impl Row {
    fn push_next(&mut self, logits: &[f32], end_tokens: &[u32]) -> Result<(), ModelError> {
        let choice = self.sampler.choose(logits, &self.ids).ok_or(ModelError::NotFinite)?;
        self.ids.push(choice.token);
        self.logprobs.push(choice.logprob);
        if end_tokens.contains(&choice.token) {
            self.finish_reason = Some(FinishReason::Stop);
        } else if self.logprobs.len() >= self.max_new_tokens {
            self.finish_reason = Some(FinishReason::Length);
        }
        Ok(())
    }
}
