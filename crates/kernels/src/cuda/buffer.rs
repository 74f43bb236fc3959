//! Device memory.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::driver::Memory;
use super::format::Element;

/// A range of values in device memory. Clones share the memory, which is freed with the last of them.
#[derive(Debug)]
pub struct Buffer<T> {
    memory: Arc<Memory>,
    range: Range<usize>,
    values: PhantomData<T>,
}

impl<T> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        Self { memory: Arc::clone(&self.memory), range: self.range.clone(), values: PhantomData }
    }
}

impl<T: Element> Buffer<T> {
    /// The first `len` values of `memory`, which must be large enough.
    pub(super) fn new(memory: Memory, len: usize) -> Self {
        Self { memory: Arc::new(memory), range: 0..len, values: PhantomData }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether it holds no values.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// A part of this buffer that shares its memory.
    ///
    /// # Panics
    /// If the range extends beyond the end.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} is not within {} values", self.len());
        let start = self.range.start;
        Self { range: start + range.start..start + range.end, ..self.clone() }
    }

    /// Whether both are parts of the same allocation.
    pub fn shares_memory_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
    }

    pub(super) fn address(&self) -> u64 {
        self.memory.address() + (self.range.start * size_of::<T>()) as u64
    }

    pub(super) fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }
}
