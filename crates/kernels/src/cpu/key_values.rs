//! Keys and values of one sequence in one layer, kept as attention reads them: head by head, each in one run.

use std::ops::Range;

use super::simd::LANES;
use super::storage::Storage;

/// Room for the keys and values of so many tokens. A sequence has one for each layer, so that threads can write to
/// several sequences at once.
///
/// Keys lie as `[head][panel][dimension][16]`, a panel being 16 tokens, so that scores of 16 keys come from one pass
/// over a run of memory; values lie as `[head][token][dimension]`.
#[derive(Debug)]
pub struct KeyValueCache {
    keys: Storage<[f32; LANES]>,
    values: Storage<[f32; LANES]>,
    length: usize,
    heads: usize,
    head_dim: usize,
}

impl KeyValueCache {
    /// Zeroed pages are only taken from the system when first written, so unused places cost address space alone.
    pub fn new(length: usize, heads: usize, head_dim: usize) -> Self {
        let length = length.next_multiple_of(LANES);
        let lines = length / LANES * heads * head_dim;
        Self { keys: Storage::zeroed(lines), values: Storage::zeroed(lines), length, heads, head_dim }
    }

    /// Bytes that room for so many tokens takes.
    pub fn bytes(length: usize, heads: usize, head_dim: usize) -> usize {
        2 * length.next_multiple_of(LANES) * heads * head_dim * size_of::<f32>()
    }

    /// Writes one token's keys and values, `[heads * head_dim]` each.
    ///
    /// # Panics
    /// If there is no such place, or the keys or values have another width.
    pub fn write(&mut self, place: usize, keys: &[f32], values: &[f32]) {
        let (dim, width) = (self.head_dim, self.heads * self.head_dim);
        assert!(place < self.length, "there must be a place {place}");
        assert!(keys.len() == width && values.len() == width, "keys and values must hold {width} values each");
        let (panel, lane) = (place / LANES, place % LANES);
        for head in 0..self.heads {
            let run = self.head(head);
            let key = self.keys.as_flattened_mut()[run.clone()][panel * dim * LANES + lane..].iter_mut().step_by(LANES);
            key.zip(&keys[head * dim..][..dim]).for_each(|(to, &from)| *to = from);
            self.values.as_flattened_mut()[run][place * dim..][..dim].copy_from_slice(&values[head * dim..][..dim]);
        }
    }

    /// Copies the keys and values of `places` from another sequence to the same places.
    ///
    /// # Panics
    /// If the other has another shape, or there are no such places.
    pub fn copy_from(&mut self, other: &Self, places: Range<usize>) {
        let shape = |cache: &Self| (cache.length, cache.heads, cache.head_dim);
        assert!(shape(self) == shape(other), "the two must have the same shape");
        assert!(places.end <= self.length, "there must be the places {places:?}");
        let dim = self.head_dim;
        for head in 0..self.heads {
            let start = self.head(head).start;
            let copy = |to: &mut Storage<_>, from: &Storage<_>, run: Range<usize>| {
                to.as_flattened_mut()[run.clone()].copy_from_slice(&from.as_flattened()[run]);
            };
            let mut copy_keys = |run| copy(&mut self.keys, &other.keys, run);
            copy(&mut self.values, &other.values, start + places.start * dim..start + places.end * dim);
            let mut place = places.start;
            while place < places.end {
                let (panel, lane) = (start + place / LANES * dim * LANES, place % LANES);
                let lanes = (places.end - place).min(LANES - lane);
                if lanes == LANES {
                    copy_keys(panel..panel + dim * LANES);
                } else {
                    let lines = (panel + lane..panel + dim * LANES).step_by(LANES);
                    lines.for_each(|line| copy_keys(line..line + lanes));
                }
                place += lanes;
            }
        }
    }

    /// Places there are.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn fits(&self, heads: usize, head_dim: usize) -> bool {
        (self.heads, self.head_dim) == (heads, head_dim)
    }

    /// `[panel][dimension][16]`. Places not written since another sequence held them keep that one's keys.
    pub(crate) fn keys(&self, head: usize) -> &[f32] {
        &self.keys.as_flattened()[self.head(head)]
    }

    /// `[token][dimension]`.
    pub(crate) fn values(&self, head: usize) -> &[f32] {
        &self.values.as_flattened()[self.head(head)]
    }

    /// Where a head's keys, and its values, lie.
    fn head(&self, head: usize) -> Range<usize> {
        let size = self.length * self.head_dim;
        head * size..(head + 1) * size
    }
}
