//! What a decoding requests of a row of logits, and what it gets. If only the best token matters, a backend can choose
//! it where the logits are, which avoids copying a row of the whole vocabulary.

use std::ops::Range;
use std::sync::Arc;

use kernels::token_mask::{CELL_BITS, PATCH_KIND};

use crate::grounding::CornerEstimate;
use crate::grounding::grid::GRID_SIDE;
use crate::reductions::{best, log_sum_exp};

/// What is requested of a row of logits.
#[derive(Debug, Clone)]
pub enum LogitsRequest {
    /// The whole row.
    Logits,
    /// The best token and its log-probability under the whole row.
    Best {
        /// The tokens that may be chosen; `None` allows all.
        mask: Option<TokenMask>,
        /// The patch tokens, in grid order. If one of them is chosen, its corner is estimated.
        patches: Range<u32>,
    },
    /// The log-probability of this token.
    Score(u32),
}

/// The tokens that a grammar allows next.
#[derive(Debug, Clone)]
pub struct TokenMask {
    /// A code for each token of the vocabulary, as [`kernels::token_mask`] defines it: its kind in the upper bits, and
    /// its cell, if it is a patch token, in the lower bits.
    pub codes: Arc<[u16]>,
    /// The allowed kinds, one bit for each.
    pub kinds: u16,
    /// Allowed patch tokens are not to the left of this cell nor above it.
    pub upper_left: u16,
}

impl TokenMask {
    /// Whether a token is allowed. All backends implement this rule.
    pub fn allows(&self, token: u32) -> bool {
        let Some(&code) = self.codes.get(token as usize) else { return false };
        let (kind, cell) = (code >> CELL_BITS, code & ((1 << CELL_BITS) - 1));
        let position = |cell: u16| (u32::from(cell) % GRID_SIDE, u32::from(cell) / GRID_SIDE);
        let ((left, top), (right, bottom)) = (position(self.upper_left), position(cell));
        self.kinds >> kind & 1 == 1 && (kind != PATCH_KIND || (left <= right && top <= bottom))
    }
}

/// A token chosen from a row of logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChosenToken {
    /// Its id: the best token, or the one of [`LogitsRequest::Score`].
    pub token: u32,
    /// Its natural-log probability under the whole row; not finite if the row is not.
    pub logprob: f32,
    /// The estimated corner that a patch token names; `None` for other tokens.
    pub corner: Option<CornerEstimate>,
}

impl ChosenToken {
    /// A token with its corner, if it is one of `patches`.
    pub(crate) fn with_corner(token: u32, logprob: f32, logits: &[f32], patches: &Range<u32>) -> Self {
        let corner = patches.contains(&token).then(|| {
            CornerEstimate::around(token - patches.start, &logits[patches.start as usize..patches.end as usize])
        });
        Self { token, logprob, corner }
    }
}

/// The output for one row of logits.
#[derive(Debug, Clone, Copy)]
pub enum LogitsOutput<'a> {
    /// The row of logits `[vocabulary]`. Every request may be answered by it.
    Logits(&'a [f32]),
    /// The requested token.
    Chosen(ChosenToken),
}

/// Logits of a pass: a row of the vocabulary for each token they were computed for, in the segments' order.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a> {
    values: &'a [f32],
    vocabulary: usize,
}

impl<'a> Logits<'a> {
    /// Rows of `vocabulary` values each.
    pub(super) fn new(values: &'a [f32], vocabulary: usize) -> Self {
        Self { values, vocabulary }
    }

    /// Rows by index, each as a slice.
    pub fn rows(&self, range: Range<usize>) -> Vec<&'a [f32]> {
        self.values[range.start * self.vocabulary..range.end * self.vocabulary].chunks_exact(self.vocabulary).collect()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.vocabulary
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// Answers a request for the best of all tokens; `None` for other requests.
pub(crate) fn choose_best(request: &LogitsRequest, logits: &[f32]) -> Option<ChosenToken> {
    let LogitsRequest::Best { mask: None, patches } = request else { return None };
    let Some((token, log_total)) = best(logits).zip(log_sum_exp(logits)) else {
        return Some(ChosenToken { token: 0, logprob: f32::NAN, corner: None });
    };
    Some(ChosenToken::with_corner(token as u32, logits[token] - log_total, logits, patches))
}

/// Splits a pass's outputs by decoding: the first `counts[0]` belong to the first decoding, and so on.
///
/// # Panics
/// If there are fewer outputs than the sum of `counts`.
pub fn split_outputs<'a, 'b>(outputs: &'a [LogitsOutput<'b>], counts: &[usize]) -> Vec<&'a [LogitsOutput<'b>]> {
    let mut rest = outputs;
    let mut split = |&count: &usize| {
        let (own, others) = rest.split_at(count);
        rest = others;
        own
    };
    counts.iter().map(&mut split).collect()
}
