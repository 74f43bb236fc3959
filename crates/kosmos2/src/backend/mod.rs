//! What computes: one trait, with packed kernels behind it on the CPU, kernels for NVIDIA cards, and candle's tensors
//! that both are held against.
//!
//! A step is ragged: any number of sequences, each with any number of new tokens, in one pass without padding. So
//! prompts and newest tokens go through the decoder together, and a row in a batch equals the row alone because
//! there is nothing between rows to see.

pub mod candle;
pub mod cpu;
#[cfg(feature = "cuda-api")]
pub mod cuda;
pub mod logits;
pub mod positions;

use std::ops::Range;
use std::sync::Arc;

pub use logits::{Allowed, Chosen, LogitsOutput, LogitsRequest, split_outputs};

use crate::error::ModelError;
use crate::processor::image::PixelValues;

/// A picture as the decoder sees it: f32 rows [queries, width], row after row, where the backend that made it wants them.
#[derive(Debug, Clone)]
pub struct ImageEmbedding {
    place: Place,
    width: usize,
}

#[derive(Debug, Clone)]
enum Place {
    Host(Arc<[f32]>),
    #[cfg(feature = "cuda-api")]
    Cuda(kernels::cuda::Buffer<f32>),
}

impl ImageEmbedding {
    /// Rows of `width` values each.
    pub(crate) fn new(values: Vec<f32>, width: usize) -> Self {
        Self { place: Place::Host(values.into()), width }
    }

    /// Rows of `width` values each, on a card.
    #[cfg(feature = "cuda-api")]
    pub(crate) fn on_cuda(values: kernels::cuda::Buffer<f32>, width: usize) -> Self {
        Self { place: Place::Cuda(values), width }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        let values = match &self.place {
            Place::Host(values) => values.len(),
            #[cfg(feature = "cuda-api")]
            Place::Cuda(values) => values.len(),
        };
        values / self.width
    }

    /// Values of one row.
    ///
    /// # Panics
    /// When the embedding was made by a backend that keeps it elsewhere.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.as_slice()[index * self.width..][..self.width]
    }

    /// All rows, one after the other; nothing where they are not in the host's memory.
    pub fn as_slice(&self) -> &[f32] {
        match &self.place {
            Place::Host(values) => values,
            #[cfg(feature = "cuda-api")]
            Place::Cuda(_) => &[],
        }
    }

    /// The rows on a card, if they are there.
    #[cfg(feature = "cuda-api")]
    pub(crate) fn as_cuda(&self) -> Option<&kernels::cuda::Buffer<f32>> {
        match &self.place {
            Place::Host(_) => None,
            Place::Cuda(values) => Some(values),
        }
    }
}

/// A picture and the places of its rows in a prompt.
#[derive(Debug, Clone, Copy)]
pub struct ImagePlaces<'a> {
    /// The picture.
    pub embedding: &'a ImageEmbedding,
    /// 1 for each token of the whole prompt that a row overwrites, in order; 0 elsewhere. Tokens beyond its end are text.
    pub mask: &'a [u8],
}

impl ImagePlaces<'_> {
    /// For `count` tokens from the sequence's `first` on: which of the picture's rows overwrites the token, if any.
    pub(crate) fn rows(self, first: usize, count: usize) -> impl Iterator<Item = Option<usize>> {
        let mut next = self.mask.iter().take(first).filter(|&&mark| mark != 0).count();
        (first..first + count).map(move |place| {
            let marked = self.mask.get(place).is_some_and(|&mark| mark != 0);
            next += usize::from(marked);
            marked.then(|| next - 1)
        })
    }
}

/// Keys and values that a sequence takes over from another before its own new tokens are computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFrom {
    /// The other's slot. Its new tokens of the same step count as there already.
    pub slot: usize,
    /// Columns to take over, to the same places.
    pub columns: Range<usize>,
}

/// The new tokens of one sequence in a step. Slots of a step's segments are all different.
#[derive(Debug, Clone)]
pub struct Segment<'a> {
    /// Where the sequence's keys and values are kept.
    pub slot: usize,
    /// Tokens of the sequence that are there already, those of `copy` included.
    pub cached: usize,
    /// Taken over layer by layer, so that the other sequence may be in the same step; it must not copy itself then.
    pub copy: Option<CopyFrom>,
    /// The tokens; at least one.
    pub tokens: &'a [u32],
    /// Tokens of the sequence before these that are not `<pad>`, which positions count.
    pub seen: usize,
    /// The picture, where the sequence has one.
    pub image: Option<ImagePlaces<'a>>,
    /// Logits are wanted behind these of the new tokens.
    pub logits: Range<usize>,
}

/// Logits of a step: a row of vocabulary size for each token they were wanted for, in the segments' order.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a> {
    values: &'a [f32],
    vocabulary: usize,
}

impl<'a> Logits<'a> {
    /// Rows of `vocabulary` values each.
    pub(crate) fn new(values: &'a [f32], vocabulary: usize) -> Self {
        Self { values, vocabulary }
    }

    /// Consecutive rows as one slice each.
    pub fn rows(&self, range: Range<usize>) -> Vec<&'a [f32]> {
        self.values[range.start * self.vocabulary..range.end * self.vocabulary].chunks_exact(self.vocabulary).collect()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.vocabulary
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// How much of each kind of work a device takes at once with profit; more only waits longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreferredBatches {
    /// Sequences decoded together.
    pub slots: usize,
    /// Pictures in one pass of the vision tower.
    pub pictures: usize,
    /// Of these, pictures computed side by side: fewer leave part of the device idle. At least 1.
    pub parallel_images: usize,
    /// Tokens of new prompts in one step, during which the running sequences wait.
    pub prompt_tokens: usize,
    /// Pictures on their way through a whole worker: enough that the device never waits for one, and no more, since
    /// what one worker has in hand no other can take.
    pub jobs: usize,
}

impl PreferredBatches {
    /// A CPU's, and of what says nothing else.
    pub const OF_A_CPU: Self = Self { slots: 16, pictures: 8, parallel_images: 1, prompt_tokens: 1024, jobs: 8 };
}

/// A loaded model on one device, with the keys and values of the sequences being decoded.
pub trait Backend: Send {
    /// Pictures to embeddings, one each.
    ///
    /// # Errors
    /// When a picture has another size than the model's, or the device fails.
    fn image_embeddings(&mut self, pictures: &[&PixelValues]) -> Result<Vec<ImageEmbedding>, ModelError>;

    /// Makes room for `slots` sequences of at most `length` tokens each; what was kept before is lost.
    ///
    /// # Errors
    /// When the device has no room.
    fn reserve(&mut self, slots: usize, length: usize) -> Result<(), ModelError>;

    /// Bytes that one slot of `length` tokens takes.
    fn slot_bytes(&self, length: usize) -> u64;

    /// Bytes that the device could still give, as far as it tells.
    fn free_bytes(&self) -> Option<u64>;

    /// Runs the segments' tokens through the decoder. A segment may be run again as long as nothing was run behind
    /// it in its slot: it writes the same keys and values to the same places.
    ///
    /// # Errors
    /// When a segment does not fit its slot or its picture, or the device fails.
    fn forward(&mut self, segments: &[Segment]) -> Result<Logits<'_>, ModelError>;

    /// As [`Self::forward`], with less than the logits where less is wanted: a row each, as many wants as there are
    /// logits. A backend may always answer with the logits, as it does where it says nothing else.
    ///
    /// # Errors
    /// As there.
    fn decode(
        &mut self,
        segments: &[Segment],
        requests: &[LogitsRequest],
    ) -> Result<Vec<LogitsOutput<'_>>, ModelError> {
        let _ = requests;
        let logits = self.forward(segments)?;
        Ok(logits.rows(0..logits.len()).into_iter().map(LogitsOutput::Logits).collect())
    }

    /// How much work at once brings profit, where memory allows for it.
    fn preferred_batches(&self) -> PreferredBatches {
        PreferredBatches::OF_A_CPU
    }

    /// Waits until the device has done what it was given; only clocks need it.
    ///
    /// # Errors
    /// Whatever went wrong there.
    fn wait(&mut self) -> Result<(), ModelError> {
        Ok(())
    }

    /// Bytes of the device that are taken, as far as it tells; `None` on the host, where the system tells.
    fn taken_bytes(&self) -> Option<u64> {
        None
    }
}

/// What every backend must be given; the first fault is told.
pub(crate) fn check_segments(
    segments: &[Segment],
    slots: usize,
    length: usize,
    vocabulary: usize,
) -> Result<(), ModelError> {
    for segment in segments {
        let end = segment.cached + segment.tokens.len();
        if segment.tokens.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        if segment.slot >= slots || end > length {
            return Err(ModelError::SlotTooShort { tokens: end, length });
        }
        if let Some(&token) = segment.tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(ModelError::UnknownToken { token, vocabulary });
        }
        if let Some(ImagePlaces { embedding, mask }) = segment.image {
            let (found, expected) = (mask.iter().filter(|&&mark| mark != 0).count(), embedding.rows());
            if found != expected {
                return Err(ModelError::Placeholders { found, expected });
            }
        }
    }
    Ok(())
}
