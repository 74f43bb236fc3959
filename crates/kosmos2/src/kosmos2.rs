//! The whole way of one picture: processors, model and the reading of its text.

use std::path::Path;
use std::sync::Arc;

use crate::beam_slots::BeamSlots;
use crate::compute::Compute;
use crate::config::Config;
use crate::decoding::Decoding;
use crate::driver::run_to_end;
use crate::error::ModelError;
use crate::grounding::confidence::{self, TokenEvidence};
use crate::grounding::grammar::{Constraint, Grammar};
use crate::grounding::markup;
use crate::model::{LoadError, Model};
use crate::options::{GenerationOptions, GroundedText, Sampling};
use crate::processor::image::{ImageProcessor, PixelValues, ProcessorConfigError};
use crate::processor::prompt::{EncodedPrompt, Prompt, PromptError, TextProcessor};
use crate::processor::tokenizer::{KosmosTokenizer, TokenizerError};
use crate::sampling::Sampler;
use crate::sequence::{GeneratedTokens, Sequence, TokenRoles};
use crate::teacher_forcing::TeacherForcing;

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

/// What to ask about a picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// Continue a prompt.
    Generate {
        /// The prompt.
        prompt: Prompt,
        /// How to continue it.
        options: GenerationOptions,
    },
    /// Say how likely a text is.
    Score {
        /// What stands before the text and is not scored; may be empty.
        prompt: Prompt,
        /// The text in the model's markup, with boxes for its phrases.
        text: Prompt,
        /// Score the end of the text (`</s>`) too.
        with_end: bool,
    },
}

impl Query {
    /// A prompt to continue.
    pub fn generate(prompt: impl Into<Prompt>, options: GenerationOptions) -> Self {
        Self::Generate { prompt: prompt.into(), options }
    }
}

/// An [`Query`] in tokens.
#[derive(Debug, Clone)]
pub struct EncodedQuery {
    encoded: EncodedPrompt,
    how: How,
}

#[derive(Debug, Clone)]
enum How {
    Generate(GenerationOptions),
    Score { given: usize },
}

/// What goes around the model: pictures to pixels, queries to tokens, tokens to answers.
pub struct Processor {
    images: ImageProcessor,
    text: TextProcessor,
    roles: Arc<TokenRoles>,
    grammar: Arc<Grammar>,
}

impl Processor {
    /// Reads the processors of a model directory.
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

    /// An ask as the model takes it beside a picture.
    ///
    /// # Errors
    /// [`AnnotateError`] when boxes do not fit their phrases or an option is out of its range.
    pub fn encode(&self, query: &Query) -> Result<EncodedQuery, AnnotateError> {
        let encode = |prompt: &Prompt| self.text.encode_plain(prompt);
        match query {
            Query::Generate { prompt, options } => {
                options.check().map_err(ModelError::from)?;
                Ok(EncodedQuery { encoded: encode(prompt)?, how: How::Generate(options.clone()) })
            }
            Query::Score { prompt, text, with_end } => {
                let before = encode(prompt)?;
                let mut encoded = encode(&prompt.followed_by(text))?;
                self.text.drop_lone_blanks(&mut encoded, before.input_ids.len());
                if let (true, Some(&end)) = (with_end, self.roles.end.last()) {
                    encoded.push(end);
                }
                let (all, first) = (&encoded.input_ids, &before.input_ids);
                // The last token of a prompt can come out otherwise once text stands behind it.
                let given = all.iter().zip(first).take_while(|(a, b)| a == b).count();
                Ok(EncodedQuery { how: How::Score { given }, encoded })
            }
        }
    }

    /// The ask as steps of the decoder.
    ///
    /// # Errors
    /// [`ModelError`] when there are no tokens.
    pub fn decoding(&self, query: &EncodedQuery) -> Result<Decoding, ModelError> {
        Ok(match &query.how {
            How::Generate(options) => {
                let constraint = Constraint::of_row(&self.grammar, &query.encoded.input_ids, options);
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
            How::Score { given } => Decoding::Scoring(TeacherForcing::new(&query.encoded, *given, &self.roles)?),
        })
    }

    /// Reads what a decoding came to as text with phrases, boxes and scores.
    pub fn read(&self, query: &EncodedQuery, tokens: GeneratedTokens) -> GroundedText {
        let GeneratedTokens { token_ids, logprobs, corners, finish_reason } = tokens;
        let given = match query.how {
            How::Generate(_) => query.encoded.input_ids.len(),
            How::Score { .. } => query.encoded.input_ids.len() - token_ids.len(),
        };
        let row: Vec<u32> = query.encoded.input_ids[..given].iter().chain(&token_ids).copied().collect();
        let decoded = self.text.tokenizer().decode_with_offsets(&row);
        let raw = markup::caption(&decoded.text);
        let read = markup::read(raw);
        let offset = decoded.text.len() - raw.len();
        let new = logprobs.iter().zip(corners).map(|(&logprob, corner)| Some(TokenEvidence { logprob, corner }));
        let evidence: Vec<_> = std::iter::repeat_n(None, given).chain(new).collect();
        GroundedText {
            prompt: query.encoded.text.clone(),
            prompt_tokens: given,
            raw_text: raw.to_owned(),
            entities: confidence::score(read.entities, offset, &decoded.token_ranges, &evidence),
            text: read.text,
            token_ids,
            logprobs,
            finish_reason,
        }
    }
}

/// A KOSMOS-2 ready for work: the model with its processors.
pub struct Kosmos2 {
    model: Model,
    processor: Arc<Processor>,
}

impl Kosmos2 {
    /// Opens a model directory as Hugging Face lays it out.
    ///
    /// # Errors
    /// [`OpenError`], one sentence that names the file and what is wrong with it.
    pub fn open(dir: &Path, compute: &Compute) -> Result<Self, OpenError> {
        let (config, end_tokens) = Model::read_config(dir)?;
        let (weights_config, weights_end_tokens) = (config.clone(), end_tokens.clone());
        // Reading the tokenizer keeps one thread busy, as does much of reading the weights.
        let (model, processor) = std::thread::scope(|scope| {
            let processor = scope.spawn(|| Processor::from_dir(dir, &config, &end_tokens));
            let model = Model::load_weights(dir, weights_config, weights_end_tokens, compute);
            (model, processor.join())
        });
        let model = model?;
        let processor = processor.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Self { model, processor: Arc::new(processor) })
    }

    /// The model alone, and what goes around it.
    pub fn into_parts(self) -> (Model, Arc<Processor>) {
        (self.model, self.processor)
    }

    /// What goes around the model.
    pub fn processor(&self) -> &Arc<Processor> {
        &self.processor
    }

    /// The model alone.
    pub fn model(&mut self) -> &mut Model {
        &mut self.model
    }

    /// Answers what is asked about one picture, in the order asked.
    ///
    /// # Errors
    /// [`AnnotateError`] at the first ask that is not valid, or when the model fails.
    pub fn annotate(&mut self, picture: &PixelValues, queries: &[Query]) -> Result<Vec<GroundedText>, AnnotateError> {
        let encoded = queries.iter().map(|query| self.processor.encode(query)).collect::<Result<Vec<_>, _>>()?;
        let backend = self.model.backend();
        let embedding = backend.image_embeddings(&[picture])?.pop().map(Arc::new);
        let start = |query| Ok((self.processor.decoding(query)?, embedding.clone()));
        let decodings = encoded.iter().map(start).collect::<Result<Vec<_>, ModelError>>()?;
        let finished = run_to_end(backend, decodings)?;
        let read = |(query, decoding): (&EncodedQuery, Decoding)| self.processor.read(query, decoding.finish());
        Ok(encoded.iter().zip(finished).map(read).collect())
    }
}
