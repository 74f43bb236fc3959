//! [`Kosmos2`], a model with its processors, and the queries that it answers.

use std::path::Path;
use std::sync::Arc;

use crate::compute::Compute;
use crate::config::Config;
use crate::decoding::{
    BeamSlots, Decoding, GeneratedTokens, Sampler, Sequence, TeacherForcing, TokenRoles, run_to_end,
};
use crate::error::ModelError;
use crate::grounding::confidence::{self, TokenEvidence};
use crate::grounding::grammar::{Constraint, Grammar};
use crate::grounding::markup;
use crate::model::{LoadError, Model};
use crate::options::{GenerationOptions, GroundedText, Sampling};
use crate::processor::image::{ImageProcessor, PixelValues, ProcessorConfigError};
use crate::processor::prompt::{EncodedPrompt, Prompt, PromptError, TextProcessor};
use crate::processor::tokenizer::{KosmosTokenizer, TokenizerError};

/// Why a model directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration or the weights are unusable.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The tokenizer is unusable.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The image processor's configuration is unusable.
    #[error(transparent)]
    Processor(#[from] ProcessorConfigError),
    /// The files do not belong to the same model.
    #[error("{dir}: {what} is {found}, but config.json's {key} is {expected}; the files are not of one model")]
    Mismatch {
        /// The model directory.
        dir: String,
        /// The mismatched value.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The key in config.json.
        key: &'static str,
        /// The value in config.json.
        expected: usize,
    },
}

/// Why a query failed.
#[derive(Debug, thiserror::Error)]
pub enum AnnotateError {
    /// A prompt or its boxes are invalid.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// An option is invalid, or the model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// A query about a picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// Generate the answer to a prompt.
    Generate {
        /// The prompt.
        prompt: Prompt,
        /// How to generate the answer.
        options: GenerationOptions,
    },
    /// Compute the log-probabilities of a text.
    Score {
        /// The text before it, which is not scored. May be empty.
        prompt: Prompt,
        /// The text to score, in the model's markup, with boxes for its phrases.
        text: Prompt,
        /// Whether to score the end token (`</s>`) after the text.
        with_end: bool,
    },
}

impl Query {
    /// A query that generates the answer to a prompt.
    pub fn generate(prompt: impl Into<Prompt>, options: GenerationOptions) -> Self {
        Self::Generate { prompt: prompt.into(), options }
    }
}

/// A [`Query`] in tokens.
#[derive(Debug, Clone)]
pub struct EncodedQuery {
    encoded: EncodedPrompt,
    kind: EncodedKind,
}

#[derive(Debug, Clone)]
enum EncodedKind {
    Generate(GenerationOptions),
    /// The prompt and the text are encoded together.
    Score {
        prompt_tokens: usize,
    },
}

/// The processors of a model: pictures to pixel values, queries to tokens, and generated tokens to grounded texts.
pub struct Processor {
    images: ImageProcessor,
    text: TextProcessor,
    roles: Arc<TokenRoles>,
    grammar: Arc<Grammar>,
}

impl Processor {
    /// Reads the processors of a model directory.
    ///
    /// # Errors
    /// [`OpenError`] if a file is unusable or does not match the configuration.
    fn from_dir(dir: &Path, config: &Config, end_tokens: &[u32]) -> Result<Self, OpenError> {
        let tokenizer = KosmosTokenizer::from_dir(dir)?;
        let images = ImageProcessor::from_dir(dir)?;
        let (text, vision) = (&config.text_config, &config.vision_config);
        let check = |what, found, key, expected| match found == expected {
            true => Ok(()),
            false => Err(OpenError::Mismatch { dir: dir.display().to_string(), what, found, key, expected }),
        };
        check("the tokenizer's vocabulary", tokenizer.vocab_size(), "text_config.vocab_size", text.vocab_size)?;
        check("the image processor's size", images.size(), "vision_config.image_size", vision.image_size)?;
        let roles = TokenRoles { pad: text.pad_token_id, end: end_tokens.to_vec(), patches: tokenizer.patches() };
        let grammar = Arc::new(Grammar::new(&tokenizer, end_tokens));
        let text = TextProcessor::new(tokenizer, config.latent_query_num);
        Ok(Self { images, text, roles: Arc::new(roles), grammar })
    }

    /// The image processor.
    pub fn images(&self) -> &ImageProcessor {
        &self.images
    }

    /// The prompt processor.
    pub fn text(&self) -> &TextProcessor {
        &self.text
    }

    /// Encodes a query.
    ///
    /// # Errors
    /// [`AnnotateError::Prompt`] if a prompt or its boxes are invalid, [`ModelError::Options`] if an option is out of
    /// range.
    pub fn encode(&self, query: &Query) -> Result<EncodedQuery, AnnotateError> {
        let encode = |prompt: &Prompt| self.text.encode_untrusted(prompt);
        match query {
            Query::Generate { prompt, options } => {
                options.check().map_err(ModelError::from)?;
                Ok(EncodedQuery { encoded: encode(prompt)?, kind: EncodedKind::Generate(options.clone()) })
            }
            Query::Score { prompt, text, with_end } => {
                let prompt_only = encode(prompt)?;
                let mut encoded = encode(&prompt.followed_by(text))?;
                self.text.remove_added_blanks(&mut encoded, prompt_only.input_ids.len());
                if let (true, Some(&end)) = (with_end, self.roles.end.last()) {
                    encoded.push(end);
                }
                // The last tokens of the prompt can be encoded differently if text follows.
                let pairs = encoded.input_ids.iter().zip(&prompt_only.input_ids);
                let prompt_tokens = pairs.take_while(|(a, b)| a == b).count();
                Ok(EncodedQuery { kind: EncodedKind::Score { prompt_tokens }, encoded })
            }
        }
    }

    /// Creates the decoding of a query.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] if there are no tokens to continue or to score.
    pub fn decoding(&self, query: &EncodedQuery) -> Result<Decoding, ModelError> {
        Ok(match &query.kind {
            EncodedKind::Generate(options) => {
                let constraint = Constraint::for_prompt(&self.grammar, &query.encoded.input_ids, options);
                match options.sampling {
                    Sampling::Beam(beam) => {
                        BeamSlots::new(&query.encoded, options, beam, &self.roles, constraint)?.into()
                    }
                    Sampling::Greedy | Sampling::Random { .. } => {
                        let sampler = Sampler::new(options, constraint)?;
                        Sequence::new(&query.encoded, options, &self.roles, sampler)?.into()
                    }
                }
            }
            EncodedKind::Score { prompt_tokens } => {
                Decoding::Scoring(TeacherForcing::new(&query.encoded, *prompt_tokens, &self.roles)?)
            }
        })
    }

    /// Converts the tokens of a decoding to text with phrases, boxes and scores.
    pub fn grounded_text(&self, query: &EncodedQuery, tokens: GeneratedTokens) -> GroundedText {
        let GeneratedTokens { token_ids, logprobs, corners, finish_reason } = tokens;
        let prompt_tokens = match query.kind {
            EncodedKind::Generate(_) => query.encoded.input_ids.len(),
            EncodedKind::Score { .. } => query.encoded.input_ids.len() - token_ids.len(),
        };
        let all_ids: Vec<u32> = query.encoded.input_ids[..prompt_tokens].iter().chain(&token_ids).copied().collect();
        let decoded = self.text.tokenizer().decode_with_offsets(&all_ids);
        let raw = markup::caption(&decoded.text);
        let parsed = markup::parse(raw);
        let offset = decoded.text.len() - raw.len();
        let new = logprobs.iter().zip(corners).map(|(&logprob, corner)| Some(TokenEvidence { logprob, corner }));
        let evidence: Vec<_> = std::iter::repeat_n(None, prompt_tokens).chain(new).collect();
        GroundedText {
            prompt: query.encoded.text.clone(),
            prompt_tokens,
            raw_text: raw.to_owned(),
            entities: confidence::score(parsed.entities, offset, &decoded.token_ranges, &evidence),
            text: parsed.text,
            token_ids,
            logprobs,
            finish_reason,
        }
    }
}

/// A KOSMOS-2 model with its processors.
pub struct Kosmos2 {
    model: Model,
    processor: Arc<Processor>,
}

impl Kosmos2 {
    /// Opens a model directory in the layout of Hugging Face.
    ///
    /// # Errors
    /// [`OpenError`], which names the file and what is wrong with it.
    pub fn open(dir: &Path, compute: &Compute) -> Result<Self, OpenError> {
        let (config, end_tokens) = Model::read_config(dir)?;
        let (weights_config, weights_end_tokens) = (config.clone(), end_tokens.clone());
        // In parallel, since reading the tokenizer uses one thread, as does much of reading the weights.
        let (model, processor) = std::thread::scope(|scope| {
            let processor = scope.spawn(|| Processor::from_dir(dir, &config, &end_tokens));
            let model = Model::load_weights(dir, weights_config, weights_end_tokens, compute);
            (model, processor.join())
        });
        let model = model?;
        let processor = processor.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Self { model, processor: Arc::new(processor) })
    }

    /// The model and the processors, for an engine.
    pub fn into_parts(self) -> (Model, Arc<Processor>) {
        (self.model, self.processor)
    }

    /// The processors.
    pub fn processor(&self) -> &Arc<Processor> {
        &self.processor
    }

    /// The model without its processors.
    pub fn model(&mut self) -> &mut Model {
        &mut self.model
    }

    /// Answers queries about one picture in one batch. The results are in the queries' order.
    ///
    /// # Errors
    /// [`AnnotateError`] of the first invalid query, or if the model fails.
    pub fn annotate(&mut self, picture: &PixelValues, queries: &[Query]) -> Result<Vec<GroundedText>, AnnotateError> {
        let encoded = queries.iter().map(|query| self.processor.encode(query)).collect::<Result<Vec<_>, _>>()?;
        let backend = self.model.backend();
        let embedding = backend.image_embeddings(&[picture])?.pop().map(Arc::new);
        let start = |query| Ok((self.processor.decoding(query)?, embedding.clone()));
        let decodings = encoded.iter().map(start).collect::<Result<Vec<_>, ModelError>>()?;
        let finished = run_to_end(backend, decodings)?;
        let text =
            |(query, decoding): (&EncodedQuery, Decoding)| self.processor.grounded_text(query, decoding.finish());
        Ok(encoded.iter().zip(finished).map(text).collect())
    }
}
