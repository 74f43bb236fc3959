//! Keys and values of one layer, kept as attention reads them: head by head, each in one run.

use std::ops::Range;

use super::simd::LANES;

/// Slots with room for the keys and values of so many tokens each.
///
/// Keys lie as `[slot][head][panel][dimension][16]`, a panel being 16 tokens, so that scores of 16 keys come from one
/// pass over a run of memory; values lie as `[slot][head][token][dimension]`.
#[derive(Debug, Default)]
pub struct KeyValueCache {
    keys: Vec<f32>,
    values: Vec<f32>,
    slots: usize,
    length: usize,
    heads: usize,
    head_dim: usize,
}

impl KeyValueCache {
    /// Zeroed pages are only taken from the system when first written, so unused slots cost address space alone.
    pub fn new(slots: usize, length: usize, heads: usize, head_dim: usize) -> Self {
        let length = length.next_multiple_of(LANES);
        let values = slots * length * heads * head_dim;
        Self { keys: vec![0.0; values], values: vec![0.0; values], slots, length, heads, head_dim }
    }

    /// Bytes of one slot.
    pub fn slot_bytes(length: usize, heads: usize, head_dim: usize) -> usize {
        2 * length.next_multiple_of(LANES) * heads * head_dim * size_of::<f32>()
    }

    /// Writes one token's keys and values, `[heads * head_dim]` each.
    ///
    /// # Panics
    /// If there is no such slot or place in it, or the keys or values have another width.
    pub fn write(&mut self, slot: usize, place: usize, keys: &[f32], values: &[f32]) {
        let (dim, width) = (self.head_dim, self.heads * self.head_dim);
        assert!(slot < self.slots && place < self.length, "slot {slot} must have a place {place}");
        assert!(keys.len() == width && values.len() == width, "keys and values must hold {width} values each");
        let (panel, lane) = (place / LANES, place % LANES);
        for head in 0..self.heads {
            let run = self.head(slot, head);
            let key = self.keys[run.clone()][panel * dim * LANES + lane..].iter_mut().step_by(LANES);
            key.zip(&keys[head * dim..][..dim]).for_each(|(to, &from)| *to = from);
            self.values[run][place * dim..][..dim].copy_from_slice(&values[head * dim..][..dim]);
        }
    }

    /// Copies the keys and values of `places` from one slot to the same places of another.
    ///
    /// # Panics
    /// If there are no such slots, or no such places in them.
    pub fn copy(&mut self, from: usize, to: usize, places: Range<usize>) {
        assert!(from < self.slots && to < self.slots, "slots {from} and {to} must be there");
        assert!(places.end <= self.length, "a slot must have the places {places:?}");
        let dim = self.head_dim;
        for head in 0..self.heads {
            let (source, target) = (self.head(from, head).start, self.head(to, head).start);
            let values = source + places.start * dim..source + places.end * dim;
            self.values.copy_within(values, target + places.start * dim);
            let mut place = places.start;
            while place < places.end {
                let (panel, lane) = (place / LANES * dim * LANES, place % LANES);
                let lanes = (places.end - place).min(LANES - lane);
                if lanes == LANES {
                    self.keys.copy_within(source + panel..source + panel + dim * LANES, target + panel);
                } else {
                    for line in (panel + lane..panel + dim * LANES).step_by(LANES) {
                        self.keys.copy_within(source + line..source + line + lanes, target + line);
                    }
                }
                place += lanes;
            }
        }
    }

    /// A slot's keys and values.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn slot(&self, slot: usize) -> Slot<'_> {
        assert!(slot < self.slots, "there must be a slot {slot} among {}", self.slots);
        Slot { cache: self, slot }
    }

    /// Where a head's keys, and its values, lie.
    fn head(&self, slot: usize, head: usize) -> Range<usize> {
        let size = self.length * self.head_dim;
        let start = (slot * self.heads + head) * size;
        start..start + size
    }
}

/// One slot of a [`KeyValueCache`].
#[derive(Clone, Copy, Debug)]
pub struct Slot<'a> {
    cache: &'a KeyValueCache,
    slot: usize,
}

impl<'a> Slot<'a> {
    /// Places there are.
    pub(crate) fn length(&self) -> usize {
        self.cache.length
    }

    pub(crate) fn fits(&self, heads: usize, head_dim: usize) -> bool {
        (self.cache.heads, self.cache.head_dim) == (heads, head_dim)
    }

    /// `[panel][dimension][16]`. Places not written since another sequence held them keep that one's keys.
    pub(crate) fn keys(&self, head: usize) -> &'a [f32] {
        &self.cache.keys[self.cache.head(self.slot, head)]
    }

    /// `[token][dimension]`.
    pub(crate) fn values(&self, head: usize) -> &'a [f32] {
        &self.cache.values[self.cache.head(self.slot, head)]
    }
}
