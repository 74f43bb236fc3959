//! What kernels look up: which row belongs where. Entries are checked as they are set, so that no kernel can be led
//! beyond its buffers, also in a recorded step that is replayed with other entries.

use super::buffer::Buffer;
use super::device::{CudaError, Device, at_least};

/// `Err` where a value is not below its limit.
fn below(what: &'static str, found: u32, limit: usize) -> Result<(), CudaError> {
    let found = found as usize;
    if found < limit { Ok(()) } else { Err(CudaError::Range { what, found, limit }) }
}

/// A token going through the decoder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewRow {
    /// Its id.
    pub token: u32,
    /// Its row of the position table.
    pub position: u32,
    /// Where its sequence's keys and values are kept.
    pub slot: u32,
    /// Tokens of the sequence before it, so the column of its own key and value.
    pub column: u32,
}

/// What entries of [`Rows`] are below.
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
    /// Room for so many, all zero.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(device: &Device, capacity: usize, limits: RowLimits) -> Result<Self, CudaError> {
        Ok(Self { words: device.zeros(capacity * 4)?, limits })
    }

    /// Sets the first entries.
    ///
    /// # Errors
    /// [`CudaError::Range`] where a value is beyond its limit; then nothing is set.
    pub fn set(&self, device: &Device, rows: &[NewRow]) -> Result<(), CudaError> {
        let mut words = Vec::with_capacity(rows.len() * 4);
        for &NewRow { token, position, slot, column } in rows {
            below("token", token, self.limits.tokens)?;
            below("position", position, self.limits.positions)?;
            below("slot", slot, self.limits.slots)?;
            below("column", column, self.limits.columns)?;
            words.extend([token, position, slot, column]);
        }
        device.upload(&words, &self.words)
    }

    /// The entries from `first` on.
    #[must_use]
    pub fn from(&self, first: usize) -> Self {
        Self { words: self.words.part(first * 4..self.words.len()), limits: self.limits }
    }

    pub(super) fn holds(&self, count: usize) -> Result<(), CudaError> {
        at_least("a table of rows", self.words.len(), count * 4)
    }
}

/// What is wanted of a row of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowRequest {
    /// The token whose log-probability is wanted; `None` for the best allowed one.
    pub target: Option<u32>,
    /// Kinds of tokens that are allowed, a bit each; all ones for every token, whatever its kind.
    pub set: u16,
    /// A patch token must not lie to the left of or above this cell.
    pub upper_left: u16,
    /// The patch tokens, for which the corner is estimated: first and end.
    pub patches: (u32, u32),
}

impl RowRequest {
    /// Every kind of token.
    pub const EVERYTHING: u16 = u16::MAX;
}

/// [`RowRequest`]s on the device.
#[derive(Debug, Clone)]
pub struct RowRequests {
    pub(super) words: Buffer<u32>,
    pub(super) vocabulary: usize,
}

impl RowRequests {
    /// Room for so many. Until they are set they ask for token 0.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(device: &Device, capacity: usize, vocabulary: usize) -> Result<Self, CudaError> {
        Ok(Self { words: device.zeros(capacity * 4)?, vocabulary })
    }

    /// Sets the first entries.
    ///
    /// # Errors
    /// [`CudaError::Range`] where a token is beyond the vocabulary; then nothing is set.
    pub fn set(&self, device: &Device, wants: &[RowRequest]) -> Result<(), CudaError> {
        let mut words = Vec::with_capacity(wants.len() * 4);
        for want in wants {
            if let Some(target) = want.target {
                below("a wanted token", target, self.vocabulary)?;
            }
            let (first, end) = want.patches;
            below("the patch tokens' end", end, self.vocabulary + 1)?;
            let mask = u32::from(want.upper_left) << 16 | u32::from(want.set);
            words.extend([want.target.unwrap_or(u32::MAX), mask, first, end]);
        }
        device.upload(&words, &self.words)
    }

    /// The entries from `first` on.
    #[must_use]
    pub fn from(&self, first: usize) -> Self {
        Self { words: self.words.part(first * 4..self.words.len()), vocabulary: self.vocabulary }
    }
}

/// Queries of one sequence or picture that are computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Its first row of queries.
    pub query: u32,
    /// Its rows, at most [`Tile::MOST_ROWS`].
    pub rows: u32,
    /// Whose keys and values they see.
    pub context: u32,
    /// Columns that the first row sees; at least one.
    pub first_visible: u32,
    /// Columns that each row sees more than the one before: 1 where attention is causal, else 0.
    pub step: u32,
    /// Its first row of the result.
    pub out: u32,
}

impl Tile {
    /// Rows that a block of the kernels takes.
    pub const MOST_ROWS: usize = 128;

    /// The tiles of `rows` consecutive queries that see `first_visible` columns and, where `causal`, one more each.
    pub fn cover(query: u32, rows: u32, context: u32, first_visible: u32, causal: bool, out: u32) -> Vec<Self> {
        let most = Self::MOST_ROWS as u32;
        let step = u32::from(causal);
        let tile = |done: u32| Self {
            query: query + done,
            rows: most.min(rows - done),
            context,
            first_visible: first_visible + done * step,
            step,
            out: out + done,
        };
        (0..rows).step_by(Self::MOST_ROWS).map(tile).collect()
    }
}

/// What entries of [`Tiles`] stay within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileLimits {
    /// Rows of queries.
    pub queries: usize,
    /// Sequences or pictures.
    pub contexts: usize,
    /// Columns of each.
    pub columns: usize,
    /// Rows of the result.
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
    /// Room for so many; none yet.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(device: &Device, capacity: usize, limits: TileLimits) -> Result<Self, CudaError> {
        Ok(Self { words: device.zeros(capacity * 6)?, limits, count: 0 })
    }

    /// Sets all entries.
    ///
    /// # Errors
    /// [`CudaError::Range`] where a value is beyond its limit; then nothing is set.
    pub fn set(&mut self, device: &Device, tiles: &[Tile]) -> Result<(), CudaError> {
        let mut words = Vec::with_capacity(tiles.len() * 6);
        for tile in tiles {
            let Tile { query, rows, context, first_visible, step, out } = *tile;
            below("a tile's rows, less one,", rows.wrapping_sub(1), Tile::MOST_ROWS)?;
            below("a tile's step", step, 2)?;
            below("a tile's first columns, less one,", first_visible.wrapping_sub(1), self.limits.columns)?;
            below("a tile's last query", query.saturating_add(rows - 1), self.limits.queries)?;
            below("a tile's context", context, self.limits.contexts)?;
            let last = first_visible + (rows - 1) * step;
            below("a tile's last column", last - 1, self.limits.columns)?;
            below("a tile's last result", out.saturating_add(rows - 1), self.limits.out)?;
            words.extend([query, rows, context, first_visible, step, out]);
        }
        device.upload(&words, &self.words)?;
        self.count = tiles.len();
        Ok(())
    }
}

/// Columns that one slot takes over from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// The slot that has them.
    pub from: u32,
    /// The slot that takes them; another one, which is read by no copy of the same table.
    pub to: u32,
    /// The first column.
    pub first: u32,
    /// Their number.
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
    /// Room for so many among slots of so many columns; none yet.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(device: &Device, capacity: usize, slots: usize, columns: usize) -> Result<Self, CudaError> {
        Ok(Self { words: device.zeros(capacity * 4)?, slots, columns, count: 0 })
    }

    /// Sets all entries.
    ///
    /// # Errors
    /// [`CudaError::Range`] where a value is beyond its limit; then nothing is set.
    pub fn set(&mut self, device: &Device, copies: &[Copy]) -> Result<(), CudaError> {
        let mut words = Vec::with_capacity(copies.len() * 4);
        for &Copy { from, to, first, count } in copies {
            below("a copy's source", from, self.slots)?;
            below("a copy's target", to, self.slots)?;
            below("a copy's end", first.saturating_add(count), self.columns + 1)?;
            words.extend([from, to, first, count]);
        }
        device.upload(&words, &self.words)?;
        self.count = copies.len();
        Ok(())
    }
}

/// Numbers of rows on the device, for kernels that take some rows of many.
#[derive(Debug, Clone)]
pub struct Picks {
    pub(super) words: Buffer<u32>,
    pub(super) rows: usize,
}

impl Picks {
    /// Room for so many out of `rows`, all naming the first.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(device: &Device, capacity: usize, rows: usize) -> Result<Self, CudaError> {
        Ok(Self { words: device.zeros(capacity)?, rows })
    }

    /// Sets the first entries.
    ///
    /// # Errors
    /// [`CudaError::Range`] where a row is beyond the last; then nothing is set.
    pub fn set(&self, device: &Device, picks: &[u32]) -> Result<(), CudaError> {
        picks.iter().try_for_each(|&pick| below("a picked row", pick, self.rows))?;
        device.upload(picks, &self.words)
    }

    /// The entries from `first` on.
    #[must_use]
    pub fn from(&self, first: usize) -> Self {
        Self { words: self.words.part(first..self.words.len()), rows: self.rows }
    }
}
