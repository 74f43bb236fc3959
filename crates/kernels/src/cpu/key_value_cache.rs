//! The key/value cache of one sequence in one layer, in the order in which attention reads it: by head, contiguous.

use std::ops::Range;

use super::simd::LANES;
use super::storage::Storage;

/// The keys and values of one sequence in one layer. Each sequence has its own caches, so that threads can write to
/// several sequences at once.
///
/// Keys are `[head][panel][dimension][16]`, where a panel is 16 tokens, so that the scores of 16 keys need one pass over
/// contiguous memory; values are `[head][token][dimension]`.
#[derive(Debug)]
pub struct KeyValueCache {
    keys: Storage<[f32; LANES]>,
    values: Storage<[f32; LANES]>,
    length: usize,
    heads: usize,
    head_dim: usize,
}

impl KeyValueCache {
    /// A cache for `length` tokens. Pages are allocated when they are first written, so unused positions cost only
    /// address space.
    pub fn new(length: usize, heads: usize, head_dim: usize) -> Self {
        let length = length.next_multiple_of(LANES);
        let lines = length / LANES * heads * head_dim;
        Self { keys: Storage::zeroed(lines), values: Storage::zeroed(lines), length, heads, head_dim }
    }

    /// Bytes of a cache for `length` tokens.
    pub fn bytes(length: usize, heads: usize, head_dim: usize) -> usize {
        2 * length.next_multiple_of(LANES) * heads * head_dim * size_of::<f32>()
    }

    /// Writes the keys and values of one token, `[heads * head_dim]` each.
    ///
    /// # Panics
    /// If the position is beyond the cache's length, or the keys or values have another width.
    pub fn write(&mut self, position: usize, keys: &[f32], values: &[f32]) {
        let (dim, width) = (self.head_dim, self.heads * self.head_dim);
        assert!(position < self.length, "position {position} must be below the cache's length of {}", self.length);
        assert!(keys.len() == width && values.len() == width, "keys and values must hold {width} values each");
        let (panel, lane) = (position / LANES, position % LANES);
        for head in 0..self.heads {
            let run = self.head(head);
            let key = self.keys.as_flattened_mut()[run.clone()][panel * dim * LANES + lane..].iter_mut().step_by(LANES);
            key.zip(&keys[head * dim..][..dim]).for_each(|(to, &from)| *to = from);
            self.values.as_flattened_mut()[run][position * dim..][..dim].copy_from_slice(&values[head * dim..][..dim]);
        }
    }

    /// Copies the keys and values at `positions` of another sequence to the same positions of this one.
    ///
    /// # Panics
    /// If the other cache has another shape, or the positions are beyond its length.
    pub fn copy_from(&mut self, other: &Self, positions: Range<usize>) {
        let shape = |cache: &Self| (cache.length, cache.heads, cache.head_dim);
        assert!(shape(self) == shape(other), "both caches must have the same shape");
        assert!(
            positions.end <= self.length,
            "positions {positions:?} must be within the cache's length of {}",
            self.length
        );
        let dim = self.head_dim;
        for head in 0..self.heads {
            let start = self.head(head).start;
            let copy = |to: &mut Storage<_>, from: &Storage<_>, run: Range<usize>| {
                to.as_flattened_mut()[run.clone()].copy_from_slice(&from.as_flattened()[run]);
            };
            let mut copy_keys = |run| copy(&mut self.keys, &other.keys, run);
            copy(&mut self.values, &other.values, start + positions.start * dim..start + positions.end * dim);
            let mut position = positions.start;
            while position < positions.end {
                let (panel, lane) = (start + position / LANES * dim * LANES, position % LANES);
                let lanes = (positions.end - position).min(LANES - lane);
                if lanes == LANES {
                    copy_keys(panel..panel + dim * LANES);
                } else {
                    let lines = (panel + lane..panel + dim * LANES).step_by(LANES);
                    lines.for_each(|line| copy_keys(line..line + lanes));
                }
                position += lanes;
            }
        }
    }

    /// How many tokens it holds.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn has_shape(&self, heads: usize, head_dim: usize) -> bool {
        (self.heads, self.head_dim) == (heads, head_dim)
    }

    /// `[panel][dimension][16]`. Positions that this sequence has not written hold keys of an earlier sequence, or zeros.
    pub(crate) fn keys(&self, head: usize) -> &[f32] {
        &self.keys.as_flattened()[self.head(head)]
    }

    /// `[token][dimension]`.
    pub(crate) fn values(&self, head: usize) -> &[f32] {
        &self.values.as_flattened()[self.head(head)]
    }

    /// The range of a head's keys, and of its values.
    fn head(&self, head: usize) -> Range<usize> {
        let size = self.length * self.head_dim;
        head * size..(head + 1) * size
    }
}
