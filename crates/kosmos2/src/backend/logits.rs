//! What is wanted of a row of logits, and what comes of it. Where only the best token counts, a backend can choose it where
//! the logits are, which saves to move a whole vocabulary a row.

use std::ops::Range;
use std::sync::Arc;

use crate::grounding::corner::CornerEstimate;
use crate::grounding::grid::GRID_SIDE;
use crate::reductions::{best, log_sum_exp};

/// What is wanted of a row of logits.
#[derive(Debug, Clone)]
pub enum LogitsRequest {
    /// All of it.
    Logits,
    /// The best token and its log-probability under the whole row.
    Best {
        /// Tokens that may be chosen; all if absent.
        allowed: Option<Allowed>,
        /// Tokens for which the corner is estimated, in the grid's order.
        patches: Range<u32>,
    },
    /// This token's log-probability.
    Score(u32),
}

/// The tokens that a grammar allows next.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// For each token of the vocabulary its kind (0..16) times 1024, plus its cell if it is a patch.
    pub codes: Arc<[u16]>,
    /// The kinds that may come, a bit each.
    pub set: u16,
    /// A patch must not lie to the left of or above this cell.
    pub upper_left: u16,
}

impl Allowed {
    /// Bits of a code below its kind.
    pub const CELL_BITS: u32 = 10;

    /// The kind of patch tokens.
    pub const PATCH: u16 = 9;

    /// The rule that backends follow.
    pub fn allows(&self, token: u32) -> bool {
        let Some(&code) = self.codes.get(token as usize) else { return false };
        let (kind, cell) = (code >> Self::CELL_BITS, code & ((1 << Self::CELL_BITS) - 1));
        let place = |cell: u16| (u32::from(cell) % GRID_SIDE, u32::from(cell) / GRID_SIDE);
        let ((left, top), (right, bottom)) = (place(self.upper_left), place(cell));
        self.set >> kind & 1 == 1 && (kind != Self::PATCH || (left <= right && top <= bottom))
    }
}

/// A token chosen from a row of logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chosen {
    /// Its id, or the one whose score was wanted.
    pub token: u32,
    /// Its natural-log probability under the whole row; not finite where the row is not.
    pub logprob: f32,
    /// For a patch token, where the corner lies that it names.
    pub corner: Option<CornerEstimate>,
}

impl Chosen {
    /// A token of a row of logits, with its corner if it is one of `patches`.
    pub(crate) fn of_row(token: u32, logprob: f32, logits: &[f32], patches: &Range<u32>) -> Self {
        let corner = patches.contains(&token).then(|| {
            CornerEstimate::around(token - patches.start, &logits[patches.start as usize..patches.end as usize])
        });
        Self { token, logprob, corner }
    }
}

/// What comes of a row.
#[derive(Debug, Clone, Copy)]
pub enum LogitsOutput<'a> {
    /// Logits `[vocabulary]`: whoever wanted less takes it from them.
    Logits(&'a [f32]),
    /// What was wanted.
    Chosen(Chosen),
}

/// The best token of a row of logits, where nothing else is wanted and every token may be chosen.
pub(crate) fn choose(request: &LogitsRequest, logits: &[f32]) -> Option<Chosen> {
    let LogitsRequest::Best { allowed: None, patches } = request else { return None };
    let Some((token, log_total)) = best(logits).zip(log_sum_exp(logits)) else {
        return Some(Chosen { token: 0, logprob: f32::NAN, corner: None });
    };
    Some(Chosen::of_row(token as u32, logits[token] - log_total, logits, patches))
}

/// Rows by whom they belong to: the first so many to the first, and so on.
///
/// # Panics
/// If there are fewer rows than that.
pub fn split_outputs<'a, 'b>(mut rows: &'a [LogitsOutput<'b>], counts: &[usize]) -> Vec<&'a [LogitsOutput<'b>]> {
    let mut own = |&count: &usize| {
        let (own, others) = rows.split_at(count);
        rows = others;
        own
    };
    counts.iter().map(&mut own).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is the report")]
mod tests {
    use super::*;
    use crate::options::GenerationOptions;
    use crate::sampling::Sampler;

    #[test]
    fn a_choice_is_the_samplers() {
        let mut sampler = Sampler::new(&GenerationOptions::default(), None).unwrap();
        let request = sampler.logits_request(100..1124);
        for seed in 0..8_u32 {
            let logits: Vec<f32> = (0..1200_u32).map(|i| ((i * 37 + seed * 211) % 1009) as f32 / 100.0).collect();
            let chosen = choose(&request, &logits).unwrap();
            let expected = sampler.choose(&logits, &[]).unwrap();
            assert_eq!((chosen.token, chosen.logprob.to_bits()), (expected.token, expected.logprob.to_bits()));
            assert_eq!(chosen.corner.is_some(), (100..1124).contains(&chosen.token));
        }
        assert!(choose(&request, &[f32::NAN; 1200]).unwrap().logprob.is_nan());
        assert!(choose(&request, &[f32::NEG_INFINITY; 1200]).unwrap().logprob.is_nan());
        assert_eq!(choose(&LogitsRequest::Logits, &[0.0; 1200]), None);
    }
}
