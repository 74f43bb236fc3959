//! The key/value cache of one sequence in one layer, in the order in which attention reads it: by head, contiguous.

use std::ops::Range;

use super::element::Element;
use super::simd::LANES;
use super::storage::Storage;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheFormat {
    /// 4 bytes a value, exact.
    F32,
    /// 2 bytes a value, 8 bits of precision: rounded to nearest even when written, and widened when read.
    Bf16,
}

impl CacheFormat {
    /// Bytes of a key's, or a value's, element.
    pub fn element_bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::Bf16 => size_of::<u16>(),
        }
    }
}

/// The keys and values of one sequence in one layer. Each sequence has its own caches, so that threads can write to
/// several sequences at once.
///
/// Keys are `[head][panel][dimension][16]`, where a panel is 16 tokens, so that the scores of 16 keys need one pass over
/// contiguous memory; values are `[head][token][dimension]`.
#[derive(Debug)]
pub struct KeyValueCache(Stored);

/// Keys and values by their element.
#[derive(Debug)]
pub(crate) enum Stored {
    F32(Heads<f32>),
    Bf16(Heads<u16>),
}

/// The keys and values of all heads.
#[derive(Debug)]
pub(crate) struct Heads<E> {
    keys: Storage<E>,
    values: Storage<E>,
    shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// Tokens, in whole panels.
    length: usize,
    heads: usize,
    head_dim: usize,
}

impl KeyValueCache {
    /// A cache for `length` tokens. Pages are allocated when they are first written, so unused positions cost only
    /// address space.
    pub fn new(length: usize, heads: usize, head_dim: usize, format: CacheFormat) -> Self {
        let shape = Shape::of(length, heads, head_dim);
        Self(match format {
            CacheFormat::F32 => Stored::F32(Heads::zeroed(shape)),
            CacheFormat::Bf16 => Stored::Bf16(Heads::zeroed(shape)),
        })
    }

    /// Bytes of a cache for `length` tokens.
    pub fn bytes(length: usize, heads: usize, head_dim: usize, format: CacheFormat) -> usize {
        2 * Shape::of(length, heads, head_dim).elements() * format.element_bytes()
    }

    /// Writes the keys and values of one token, `[heads * head_dim]` each.
    ///
    /// # Panics
    /// If the position is beyond the cache's length, or the keys or values have another width.
    pub fn write(&mut self, position: usize, keys: &[f32], values: &[f32]) {
        match &mut self.0 {
            Stored::F32(heads) => heads.write(position, keys, values),
            Stored::Bf16(heads) => heads.write(position, keys, values),
        }
    }

    /// Copies the keys and values at `positions` of another sequence to the same positions of this one.
    ///
    /// # Panics
    /// If the other cache has another shape or format, or the positions are beyond its length.
    pub fn copy_from(&mut self, other: &Self, positions: Range<usize>) {
        match (&mut self.0, &other.0) {
            (Stored::F32(heads), Stored::F32(other)) => heads.copy_from(other, positions),
            (Stored::Bf16(heads), Stored::Bf16(other)) => heads.copy_from(other, positions),
            _ => panic!("both caches must have the same format"),
        }
    }

    pub(crate) fn stored(&self) -> &Stored {
        &self.0
    }

    /// How many tokens it holds.
    pub(crate) fn length(&self) -> usize {
        self.shape().length
    }

    pub(crate) fn has_shape(&self, heads: usize, head_dim: usize) -> bool {
        let shape = self.shape();
        (shape.heads, shape.head_dim) == (heads, head_dim)
    }

    fn shape(&self) -> Shape {
        match &self.0 {
            Stored::F32(heads) => heads.shape,
            Stored::Bf16(heads) => heads.shape,
        }
    }
}

impl Shape {
    fn of(length: usize, heads: usize, head_dim: usize) -> Self {
        Self { length: length.next_multiple_of(LANES), heads, head_dim }
    }

    /// Elements of all keys, and of all values.
    fn elements(self) -> usize {
        self.length * self.heads * self.head_dim
    }

    /// The range of a head's keys, and of its values.
    fn head(self, head: usize) -> Range<usize> {
        let size = self.length * self.head_dim;
        head * size..(head + 1) * size
    }
}

impl<E: Element> Heads<E> {
    fn zeroed(shape: Shape) -> Self {
        Self { keys: Storage::zeroed(shape.elements()), values: Storage::zeroed(shape.elements()), shape }
    }

    fn write(&mut self, position: usize, keys: &[f32], values: &[f32]) {
        let Shape { length, heads, head_dim: dim } = self.shape;
        let width = heads * dim;
        assert!(position < length, "position {position} must be below the cache's length of {length}");
        assert!(keys.len() == width && values.len() == width, "keys and values must hold {width} values each");
        let (panel, lane) = (position / LANES, position % LANES);
        for head in 0..heads {
            let run = self.shape.head(head);
            let store = |(to, &from): (&mut E, &f32)| *to = E::from_f32(from);
            let key = self.keys[run.clone()][panel * dim * LANES + lane..].iter_mut().step_by(LANES);
            key.zip(&keys[head * dim..][..dim]).for_each(store);
            let value = &mut self.values[run][position * dim..][..dim];
            value.iter_mut().zip(&values[head * dim..][..dim]).for_each(store);
        }
    }

    fn copy_from(&mut self, other: &Self, positions: Range<usize>) {
        let Shape { length, heads, head_dim: dim } = self.shape;
        assert!(self.shape == other.shape, "both caches must have the same shape");
        assert!(positions.end <= length, "positions {positions:?} must be within the cache's length of {length}");
        for head in 0..heads {
            let start = self.shape.head(head).start;
            let copy = |to: &mut Storage<E>, from: &Storage<E>, run: Range<usize>| {
                to[run.clone()].copy_from_slice(&from[run]);
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

    /// `[panel][dimension][16]`. Positions that this sequence has not written hold keys of an earlier sequence, or zeros.
    pub(crate) fn keys(&self, head: usize) -> &[E] {
        &self.keys[self.shape.head(head)]
    }

    /// `[token][dimension]`.
    pub(crate) fn values(&self, head: usize) -> &[E] {
        &self.values[self.shape.head(head)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_allocates_the_bytes_that_it_states() {
        fn allocated<E: Element>(heads: &Heads<E>) -> usize {
            heads.keys.bytes() + heads.values.bytes()
        }
        for format in [CacheFormat::F32, CacheFormat::Bf16] {
            let found = match KeyValueCache::new(50, 3, 24, format).stored() {
                Stored::F32(heads) => allocated(heads),
                Stored::Bf16(heads) => allocated(heads),
            };
            assert_eq!(found, KeyValueCache::bytes(50, 3, 24, format), "{format:?}");
        }
    }
}
