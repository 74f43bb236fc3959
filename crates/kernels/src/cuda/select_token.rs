//! Token selection from logits on the device.

use super::buffer::Buffer;
use super::device::{CudaError, Device, check_len};
use super::index_tables::RowRequests;
use super::launch::{Argument, int};

/// Threads of a block, as in select_token.cu.
const SELECT_THREADS: usize = 512;

/// The token selected from a row of logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SelectedToken {
    /// The token; `u32::MAX` if no token was allowed.
    pub token: u32,
    /// Its log-probability under the unmasked row; NaN if the row's logits are not finite.
    pub logprob: f32,
    /// Column and row of a patch token's corner, in cells; 0 for other tokens.
    pub corner: (f32, f32),
}

impl SelectedToken {
    /// Reads the results of [`Device::select_tokens`].
    pub fn read(words: &[u32]) -> Vec<Self> {
        let token = |words: &[u32]| Self {
            token: words[0],
            logprob: f32::from_bits(words[1]),
            corner: (f32::from_bits(words[2]), f32::from_bits(words[3])),
        };
        words.chunks_exact(4).map(token).collect()
    }
}

impl Device {
    /// Answers the request for each row of `logits` [rows, stride], whose first `codes.len()` values are tokens. Writes four
    /// words per row to `results`; see [`SelectedToken::read`].
    ///
    /// A token's code is its kind times 1024 plus its cell.
    ///
    /// # Errors
    /// [`CudaError::Size`] if a buffer is too short; [`CudaError::Shape`] if the stride is not a multiple of 4;
    /// [`CudaError::Driver`] if the launch fails.
    pub fn select_tokens(
        &self,
        logits: &Buffer<f32>,
        rows: usize,
        stride: usize,
        requests: &RowRequests,
        codes: &Buffer<u16>,
        results: &Buffer<u32>,
    ) -> Result<(), CudaError> {
        let vocabulary = codes.len();
        // Rows are read 16 bytes at a time.
        check_len("the stride of logits", stride, vocabulary.next_multiple_of(4))?;
        if !stride.is_multiple_of(4) {
            return Err(CudaError::Shape { what: "a stride of logits", found: stride, supported: "a multiple of 4" });
        }
        check_len("the buffer of logits", logits.len(), rows * stride)?;
        check_len("the table of row requests", requests.words.len(), rows * 4)?;
        check_len("the vocabulary", vocabulary, requests.vocabulary)?;
        check_len("the buffer of selected tokens", results.len(), rows * 4)?;
        let (stride, vocabulary) = (int(stride)?, int(vocabulary)?);
        let arguments: [&dyn Argument; 6] = [logits, &stride, &vocabulary, &requests.words, codes, results];
        // SAFETY: sizes are checked above, requested tokens when the requests were set.
        unsafe { self.launch("select_tokens", (rows, 1, 1), SELECT_THREADS, &arguments) }
    }
}
