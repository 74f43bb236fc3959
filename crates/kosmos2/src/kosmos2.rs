//! The whole way of one picture: processors, model and the reading of its text.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::generation::{GenerationOptions, GroundedText};
use crate::grounding::{markup, score};
use crate::model::{Batch, BatchRow, GeneratedTokens, ImagePlaces, LoadError, Model, ModelError};
use crate::processor::image::{ImageProcessor, PixelValues, ProcessorConfigError};
use crate::processor::prompt::{EncodeOptions, EncodedPrompt, Prompt, PromptError, TextProcessor};
use crate::processor::tokenizer::{KosmosTokenizer, TokenizerError};

/// Why a model directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Configuration or weights.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The image processor's configuration.
    #[error(transparent)]
    Processor(#[from] ProcessorConfigError),
    /// Files that are each right but not of one model.
    #[error("{dir}: {what} is {found}, but config.json's {key} is {expected}; the files are not of one model")]
    Mismatch {
        /// The model directory.
        dir: String,
        /// What does not fit.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The configuration's key.
        key: &'static str,
        /// The configuration's value.
        expected: usize,
    },
}

/// Why a picture could not be annotated.
#[derive(Debug, thiserror::Error)]
pub enum AnnotateError {
    /// A prompt or its boxes are not valid.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// A KOSMOS-2 ready for work: the model with both of its processors.
pub struct Kosmos2 {
    model: Model,
    images: ImageProcessor,
    text: TextProcessor,
}

impl Kosmos2 {
    /// Opens a model directory as Hugging Face lays it out.
    ///
    /// # Errors
    /// [`OpenError`], one sentence that names the file and what is wrong with it.
    pub fn open(dir: &Path, dtype: DType, device: &Device) -> Result<Self, OpenError> {
        let tokenizer = KosmosTokenizer::from_dir(dir)?;
        let images = ImageProcessor::from_dir(dir)?;
        let model = Model::load(dir, dtype, device)?;
        let config = model.config();
        let check = |what, found, key, expected| match found == expected {
            true => Ok(()),
            false => Err(OpenError::Mismatch { dir: dir.display().to_string(), what, found, key, expected }),
        };
        check(
            "the tokenizer's vocabulary",
            tokenizer.vocab_size(),
            "text_config.vocab_size",
            config.text_config.vocab_size,
        )?;
        check(
            "the image processor's size",
            images.size(),
            "vision_config.image_size",
            config.vision_config.image_size,
        )?;
        let text = TextProcessor::new(tokenizer, config.latent_query_num);
        Ok(Self { model, images, text })
    }

    /// The image processor.
    pub fn images(&self) -> &ImageProcessor {
        &self.images
    }

    /// The prompt processor.
    pub fn text(&self) -> &TextProcessor {
        &self.text
    }

    /// The model alone.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// A prompt as the model takes it beside a picture.
    ///
    /// # Errors
    /// [`PromptError`] when the prompt's boxes do not fit its phrases or are not valid.
    pub fn encode(&self, prompt: &Prompt) -> Result<EncodedPrompt, PromptError> {
        self.text.encode(prompt, &EncodeOptions::default())
    }

    /// Starts decoding several prompts about one picture, whose image embeddings are [queries, D].
    ///
    /// # Errors
    /// [`ModelError`] when the device fails or an option is out of range.
    pub fn start(
        &self,
        embeddings: &Tensor,
        prompts: &[(EncodedPrompt, GenerationOptions)],
    ) -> Result<Batch<'_>, ModelError> {
        let row = |(prompt, options): &(EncodedPrompt, GenerationOptions)| BatchRow {
            prompt: prompt.input_ids.clone(),
            image: prompt
                .image_embeds_position_mask
                .clone()
                .map(|mask| ImagePlaces { embeddings: embeddings.clone(), mask }),
            options: options.clone(),
        };
        Batch::start(&self.model, prompts.iter().map(row).collect())
    }

    /// Reads generated tokens as text with phrases, boxes and scores.
    pub fn read(&self, prompt: &EncodedPrompt, generated: GeneratedTokens) -> GroundedText {
        let GeneratedTokens { token_ids, logprobs, finish_reason } = generated;
        let row: Vec<u32> = prompt.input_ids.iter().chain(&token_ids).copied().collect();
        let decoded = self.text.tokenizer().decode_with_offsets(&row);
        let raw = markup::caption(&decoded.text);
        let read = markup::read(raw);
        let offset = decoded.text.len() - raw.len();
        let known: Vec<Option<f32>> =
            prompt.input_ids.iter().map(|_| None).chain(logprobs.iter().copied().map(Some)).collect();
        GroundedText {
            prompt: prompt.text.clone(),
            prompt_tokens: prompt.input_ids.len(),
            raw_text: raw.to_owned(),
            entities: score::score(read.entities, offset, &decoded.token_ranges, &known),
            text: read.text,
            token_ids,
            logprobs,
            finish_reason,
        }
    }

    /// Answers several prompts about one picture, in their order.
    ///
    /// # Errors
    /// [`AnnotateError`] at the first prompt that is not valid, or when the model fails.
    pub fn annotate(
        &self,
        picture: &PixelValues,
        prompts: &[(Prompt, GenerationOptions)],
    ) -> Result<Vec<GroundedText>, AnnotateError> {
        let encode = |(prompt, options): &(Prompt, GenerationOptions)| Ok((self.encode(prompt)?, options.clone()));
        let prompts = prompts.iter().map(encode).collect::<Result<Vec<_>, PromptError>>()?;
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        let embeddings = self.model.image_embeddings(&[picture])?.squeeze(0).map_err(ModelError::from)?;
        let mut batch = self.start(&embeddings, &prompts)?;
        while batch.step()? {}
        let read = |((prompt, _), generated): (&(EncodedPrompt, _), _)| self.read(prompt, generated);
        Ok(prompts.iter().zip(batch.finish()).map(read).collect())
    }
}
