//! Tables of indices in device memory: tokens, positions, slots and columns of rows, tiles of queries, copies. Entries are
//! checked when they are set, so that no kernel accesses memory beyond its buffers, even in a recorded step that is
//! replayed with other entries.

use super::buffer::Buffer;
use super::device::{CudaError, Device, check_len};

/// Fails if a value is not below its limit.
fn check_below(what: &'static str, found: u32, limit: usize) -> Result<(), CudaError> {
    let found = found as usize;
    if found < limit { Ok(()) } else { Err(CudaError::Range { what, found, limit }) }
}

/// A row of a step: one new token of a sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewRow {
    /// Its id.
    pub token: u32,
    /// Its row of the position table.
    pub position: u32,
    /// The slot of its sequence in the cache.
    pub slot: u32,
    /// The column of its key and value in the slot, which is the number of tokens before it.
    pub column: u32,
}

/// Upper limits of the entries of [`Rows`], exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLimits {
    /// Size of the vocabulary.
    pub tokens: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// Slots of the cache.
    pub slots: usize,
    /// Columns of a slot.
    pub columns: usize,
}

/// [`NewRow`]s on the device.
#[derive(Debug, Clone)]
pub struct Rows {
    pub(super) words: Buffer<u32>,
    pub(super) limits: RowLimits,
}

impl Rows {
    /// A table of `capacity` entries, all zero.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the device is out of memory.
    pub fn new(device: &Device, capacity: usize, limits: RowLimits) -> Result<Self, CudaError> {
        Ok(Self { words: device.zeros(capacity * 4)?, limits })
    }

    /// Sets the first entries.
    ///
    /// # Errors
    /// [`CudaError::Range`] if a value is out of range (then nothing is set), or an error of the upload.
    pub fn set(&self, device: &Device, rows: &[NewRow]) -> Result<(), CudaError> {
        let mut words = Vec::with_capacity(rows.len() * 4);
        for &NewRow { token, position, slot, column } in rows {
            check_below("token", token, self.limits.tokens)?;
            check_below("position", position, self.limits.positions)?;
            check_below("slot", slot, self.limits.slots)?;
            check_below("column", column, self.limits.columns)?;
            words.extend([token, position, slot, column]);
        }
        device.upload(&words, &self.words)
    }

    /// The entries from `first` on, as a table that shares the memory.
    #[must_use]
    pub fn from(&self, first: usize) -> Self {
        Self { words: self.words.part(first * 4..self.words.len()), limits: self.limits }
    }

    /// Fails if the table has fewer than `count` entries.
    pub(super) fn check_count(&self, count: usize) -> Result<(), CudaError> {
        check_len("a table of rows", self.words.len(), count * 4)
    }
}

/// What to compute from a row of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowRequest {
    /// The token whose log-probability is computed; `None` for the best allowed token.
    pub target: Option<u32>,
    /// The allowed kinds of tokens, one bit each; all ones for every token of any kind.
    pub set: u16,
    /// A patch token must not be to the left of or above this cell.
    pub upper_left: u16,
    /// The first and the end of the patch tokens, for which a corner is estimated.
    pub patches: (u32, u32),
}

impl RowRequest {
    /// The value of `set` that allows every token.
    pub const EVERYTHING: u16 = u16::MAX;
}

/// [`RowRequest`]s on the device.
#[derive(Debug, Clone)]
pub struct RowRequests {
    pub(super) words: Buffer<u32>,
    pub(super) vocabulary: usize,
}

impl RowRequests {
    /// A table of `capacity` requests, for token 0 until they are set.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the device is out of memory.
    pub fn new(device: &Device, capacity: usize, vocabulary: usize) -> Result<Self, CudaError> {
        Ok(Self { words: device.zeros(capacity * 4)?, vocabulary })
    }

    /// Sets the first entries.
    ///
    /// # Errors
    /// [`CudaError::Range`] if a token is beyond the vocabulary (then nothing is set), or an error of the upload.
    pub fn set(&self, device: &Device, requests: &[RowRequest]) -> Result<(), CudaError> {
        let mut words = Vec::with_capacity(requests.len() * 4);
        for request in requests {
            if let Some(target) = request.target {
                check_below("a requested token", target, self.vocabulary)?;
            }
            let (first, end) = request.patches;
            check_below("the patch tokens' end", end, self.vocabulary + 1)?;
            let mask = u32::from(request.upper_left) << 16 | u32::from(request.set);
            words.extend([request.target.unwrap_or(u32::MAX), mask, first, end]);
        }
        device.upload(&words, &self.words)
    }

    /// The entries from `first` on, as a table that shares the memory.
    #[must_use]
    pub fn from(&self, first: usize) -> Self {
        Self { words: self.words.part(first * 4..self.words.len()), vocabulary: self.vocabulary }
    }
}

/// Consecutive queries of one sequence or image that one block computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Its first row of queries.
    pub query: u32,
    /// Its number of rows, at most [`Tile::MAX_ROWS`].
    pub rows: u32,
    /// The context whose keys and values they see.
    pub context: u32,
    /// Number of columns that the first row sees, at least one.
    pub first_visible: u32,
    /// How many more columns each row sees than the previous row: 1 if attention is causal, otherwise 0.
    pub step: u32,
    /// Its first row of the output.
    pub out: u32,
}

impl Tile {
    /// Rows that a block of the kernels computes.
    pub const MAX_ROWS: usize = 128;

    /// The tiles of `rows` consecutive queries. The first sees `first_visible` columns; if `causal`, each of the others sees
    /// one more than the previous.
    pub fn cover(query: u32, rows: u32, context: u32, first_visible: u32, causal: bool, out: u32) -> Vec<Self> {
        let max_rows = Self::MAX_ROWS as u32;
        let step = u32::from(causal);
        let tile = |done: u32| Self {
            query: query + done,
            rows: max_rows.min(rows - done),
            context,
            first_visible: first_visible + done * step,
            step,
            out: out + done,
        };
        (0..rows).step_by(Self::MAX_ROWS).map(tile).collect()
    }
}

/// Sizes that the entries of [`Tiles`] must be within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileLimits {
    /// Rows of queries.
    pub queries: usize,
    /// Sequences or images.
    pub contexts: usize,
    /// Columns of each.
    pub columns: usize,
    /// Rows of the output.
    pub out: usize,
}

/// [`Tile`]s on the device.
#[derive(Debug, Clone)]
pub struct Tiles {
    pub(super) words: Buffer<u32>,
    pub(super) limits: TileLimits,
    pub(super) count: usize,
}

impl Tiles {
    /// An empty table of up to `capacity` tiles.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the device is out of memory.
    pub fn new(device: &Device, capacity: usize, limits: TileLimits) -> Result<Self, CudaError> {
        Ok(Self { words: device.zeros(capacity * 6)?, limits, count: 0 })
    }

    /// Sets all entries.
    ///
    /// # Errors
    /// [`CudaError::Range`] if a value is out of range (then nothing is set), or an error of the upload.
    pub fn set(&mut self, device: &Device, tiles: &[Tile]) -> Result<(), CudaError> {
        let mut words = Vec::with_capacity(tiles.len() * 6);
        for tile in tiles {
            let Tile { query, rows, context, first_visible, step, out } = *tile;
            check_below("the last row of a tile", rows.wrapping_sub(1), Tile::MAX_ROWS)?;
            check_below("the step of a tile", step, 2)?;
            check_below(
                "the last column that the first row of a tile sees",
                first_visible.wrapping_sub(1),
                self.limits.columns,
            )?;
            check_below("the last query of a tile", query.saturating_add(rows - 1), self.limits.queries)?;
            check_below("the context of a tile", context, self.limits.contexts)?;
            let last = first_visible + (rows - 1) * step;
            check_below("the last column that a tile sees", last - 1, self.limits.columns)?;
            check_below("the last output row of a tile", out.saturating_add(rows - 1), self.limits.out)?;
            words.extend([query, rows, context, first_visible, step, out]);
        }
        device.upload(&words, &self.words)?;
        self.count = tiles.len();
        Ok(())
    }
}

/// A copy of columns from one slot to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// The slot to copy from.
    pub from: u32,
    /// The slot to copy to. It must differ from `from`, and no copy of the same table may read it.
    pub to: u32,
    /// The first column.
    pub first: u32,
    /// The number of columns.
    pub count: u32,
}

/// [`Copy`]s on the device.
#[derive(Debug, Clone)]
pub struct Copies {
    pub(super) words: Buffer<u32>,
    pub(super) slots: usize,
    pub(super) columns: usize,
    pub(super) count: usize,
}

impl Copies {
    /// An empty table of up to `capacity` copies between `slots` slots of `columns` columns.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the device is out of memory.
    pub fn new(device: &Device, capacity: usize, slots: usize, columns: usize) -> Result<Self, CudaError> {
        Ok(Self { words: device.zeros(capacity * 4)?, slots, columns, count: 0 })
    }

    /// Sets all entries.
    ///
    /// # Errors
    /// [`CudaError::Range`] if a value is out of range (then nothing is set), or an error of the upload.
    pub fn set(&mut self, device: &Device, copies: &[Copy]) -> Result<(), CudaError> {
        let mut words = Vec::with_capacity(copies.len() * 4);
        for &Copy { from, to, first, count } in copies {
            check_below("the source slot of a copy", from, self.slots)?;
            check_below("the target slot of a copy", to, self.slots)?;
            check_below("the end of the columns of a copy", first.saturating_add(count), self.columns + 1)?;
            words.extend([from, to, first, count]);
        }
        device.upload(&words, &self.words)?;
        self.count = copies.len();
        Ok(())
    }
}

/// Row indices on the device, for kernels that process a selection of rows.
#[derive(Debug, Clone)]
pub struct RowIndices {
    pub(super) words: Buffer<u32>,
    pub(super) rows: usize,
}

impl RowIndices {
    /// A table of `capacity` indices of `rows` rows, all 0.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the device is out of memory.
    pub fn new(device: &Device, capacity: usize, rows: usize) -> Result<Self, CudaError> {
        Ok(Self { words: device.zeros(capacity)?, rows })
    }

    /// Sets the first entries.
    ///
    /// # Errors
    /// [`CudaError::Range`] if a row is beyond the last (then nothing is set), or an error of the upload.
    pub fn set(&self, device: &Device, indices: &[u32]) -> Result<(), CudaError> {
        indices.iter().try_for_each(|&index| check_below("a row index", index, self.rows))?;
        device.upload(indices, &self.words)
    }

    /// The entries from `first` on, as a table that shares the memory.
    #[must_use]
    pub fn from(&self, first: usize) -> Self {
        Self { words: self.words.part(first..self.words.len()), rows: self.rows }
    }
}
