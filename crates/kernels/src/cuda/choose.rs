//! From logits to tokens on the device.

use super::buffer::Buffer;
use super::device::{CudaError, Device, at_least};
use super::launch::{Argument, int};
use super::tables::RowRequests;

const CHOOSE_THREADS: usize = 512;

/// A row's answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chosen {
    /// The token; `u32::MAX` where none was allowed.
    pub token: u32,
    /// Its natural-log probability under the whole row; no number where the row's logits are not finite.
    pub logprob: f32,
    /// Where the corner lies that a patch token names, in cells; 0 for other tokens.
    pub corner: (f32, f32),
}

impl Chosen {
    /// The answers as the kernel writes them.
    pub fn read(words: &[u32]) -> Vec<Self> {
        let one = |words: &[u32]| Self {
            token: words[0],
            logprob: f32::from_bits(words[1]),
            corner: (f32::from_bits(words[2]), f32::from_bits(words[3])),
        };
        words.chunks_exact(4).map(one).collect()
    }
}

impl Device {
    /// For each row of `logits` [rows, stride], of which `codes.len()` are tokens, what is wanted of it: four words a
    /// row, as [`Chosen::read`] reads them. A token's code is its kind times 1024 plus its cell.
    ///
    /// # Errors
    /// [`CudaError::Size`] where a buffer is too short, or the driver's.
    pub fn choose(
        &self,
        logits: &Buffer<f32>,
        rows: usize,
        stride: usize,
        wants: &RowRequests,
        codes: &Buffer<u16>,
        choices: &Buffer<u32>,
    ) -> Result<(), CudaError> {
        let vocabulary = codes.len();
        // Rows are read 16 bytes at a time.
        at_least("a row of logits", stride, vocabulary.next_multiple_of(4))?;
        if !stride.is_multiple_of(4) {
            return Err(CudaError::Shape { what: "a row of logits", found: stride, served: "a multiple of 4" });
        }
        at_least("logits", logits.len(), rows * stride)?;
        at_least("wants", wants.words.len(), rows * 4)?;
        at_least("the vocabulary", vocabulary, wants.vocabulary)?;
        at_least("choices", choices.len(), rows * 4)?;
        let (stride, vocabulary) = (int(stride)?, int(vocabulary)?);
        let arguments: [&dyn Argument; 6] = [logits, &stride, &vocabulary, &wants.words, codes, choices];
        // SAFETY: sizes are checked above, wanted tokens when they were set.
        unsafe { self.launch("choose_tokens", (rows, 1, 1), CHOOSE_THREADS, &arguments) }
    }
}
