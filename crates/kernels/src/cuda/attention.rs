//! Keys and values in their slots, and launchers of the kernels that write and read them.

use super::buffer::Buffer;
use super::device::{CudaError, Device, at_least};
use super::format::{Element, Format, Kept};
use super::launch::{Argument, int};
use super::tables::{Copies, RowLimits, Rows, Tile, Tiles};

/// Heads of a block; as in the kernels.
const QUERY_WARPS: usize = 4;
const ATTENTION_THREADS: usize = 128;
const TILE_THREADS: usize = 256;
const APPEND_THREADS: usize = 256;

/// The kernels' head sizes.
const HEAD_SIZES: [usize; 3] = [16, 32, 64];

/// `Err` where no kernel has this head size.
pub(super) fn served(head_dim: usize) -> Result<(), CudaError> {
    if HEAD_SIZES.contains(&head_dim) {
        return Ok(());
    }
    Err(CudaError::Shape { what: "a head", found: head_dim, served: "16, 32 or 64" })
}

/// What turns products of queries and keys into exponents of two.
fn scale(head_dim: usize) -> f32 {
    std::f32::consts::LOG2_E / (head_dim as f32).sqrt()
}

/// Values that share a scale's pair: its key's and its value's.
const PAIR: usize = 2;

/// Keys and values of one layer: each [slots, heads, length, head_dim], and their scales [slots, heads, length, 2] where
/// they are kept with such.
#[derive(Debug, Clone)]
pub struct KeyValueCache<S> {
    keys: Buffer<S>,
    values: Buffer<S>,
    scales: Option<Buffer<f32>>,
    slots: usize,
    heads: usize,
    length: usize,
    head_dim: usize,
}

impl<S: Element> KeyValueCache<S> {
    /// Room for `slots` sequences of `length` tokens, computed in `T`.
    ///
    /// # Errors
    /// [`CudaError::Shape`] where no kernel has this head size; the driver's, where the card has no room.
    pub fn new<T: Format>(
        device: &Device,
        slots: usize,
        heads: usize,
        length: usize,
        head_dim: usize,
    ) -> Result<Self, CudaError>
    where
        S: Kept<T>,
    {
        served(head_dim)?;
        let columns = slots * heads * length;
        let side = || device.zeros(columns * head_dim);
        let scales = S::SCALED.then(|| device.zeros(columns * PAIR)).transpose()?;
        Ok(Self { keys: side()?, values: side()?, scales, slots, heads, length, head_dim })
    }

    /// Bytes that a slot of `length` tokens takes in one layer.
    pub fn slot_bytes<T: Format>(length: usize, heads: usize, head_dim: usize) -> usize
    where
        S: Kept<T>,
    {
        let scales = if S::SCALED { PAIR * size_of::<f32>() } else { 0 };
        length * heads * (2 * head_dim * size_of::<S>() + scales)
    }

    /// The slots as contexts.
    pub fn contexts(&self) -> Contexts<'_, S> {
        Contexts {
            keys: &self.keys,
            values: &self.values,
            scales: self.scales.as_ref(),
            context: self.heads * self.length * self.head_dim,
            head: self.length * self.head_dim,
            column: self.head_dim,
            contexts: self.slots,
            columns: self.length,
        }
    }

    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn holds(&self, limits: &RowLimits) -> Result<(), CudaError> {
        at_least("the cache's slots", self.slots, limits.slots)?;
        at_least("the cache's columns", self.length, limits.columns)
    }
}

/// Where keys and values of several contexts lie, and how far apart: contexts, heads of one, columns of a head.
#[derive(Debug, Clone, Copy)]
pub struct Contexts<'a, S> {
    /// Keys from the first context's first column on.
    pub keys: &'a Buffer<S>,
    /// Values likewise.
    pub values: &'a Buffer<S>,
    /// The columns' scales, where keys and values are kept with such; they must lie densely then.
    pub scales: Option<&'a Buffer<f32>>,
    /// Values from one context to the next.
    pub context: usize,
    /// Values from one head to the next.
    pub head: usize,
    /// Values from one column to the next.
    pub column: usize,
    /// Contexts.
    pub contexts: usize,
    /// Columns of each.
    pub columns: usize,
}

/// Queries, keys and values of new tokens side by side, [rows, 3 · width], and the bias that is still to be added,
/// [3 · width].
#[derive(Debug, Clone, Copy)]
pub struct NewTokens<'a, T> {
    /// The products.
    pub qkv: &'a Buffer<T>,
    /// The bias.
    pub bias: &'a Buffer<f32>,
}

/// Tiles of queries against their contexts.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a, T, S = T> {
    /// Which rows of the queries see what.
    pub tiles: &'a Tiles,
    /// Rows of heads · head_dim values.
    pub queries: &'a Buffer<T>,
    /// Values from one row of queries to the next.
    pub query_stride: usize,
    /// Added to queries.
    pub query_bias: Option<&'a Buffer<f32>>,
    /// Added to values. A bias of keys would change nothing.
    pub value_bias: Option<&'a Buffer<f32>>,
    /// Keys and values.
    pub contexts: &'a Contexts<'a, S>,
    /// Number of heads.
    pub heads: usize,
    /// Values of each.
    pub head_dim: usize,
    /// Rows of heads · head_dim values.
    pub out: &'a Buffer<T>,
}

/// What the splits of a context leave to be joined.
#[derive(Debug, Clone)]
pub struct Splits {
    pub(super) mixed: Buffer<f32>,
    pub(super) weights: Buffer<f32>,
    pub(super) count: usize,
}

impl Splits {
    /// Room for so many parts: rows times splits.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(device: &Device, parts: usize, heads: usize, head_dim: usize) -> Result<Self, CudaError> {
        let (mixed, weights) = (device.zeros(parts * heads * head_dim)?, device.zeros(parts * heads * 2)?);
        Ok(Self { mixed, weights, count: 1 })
    }

    /// The same room, used for `count` splits of each row's context.
    #[must_use]
    pub fn of(&self, count: usize) -> Self {
        Self { count: count.max(1), ..self.clone() }
    }

    pub(super) fn hold(&self, rows: usize, heads: usize, head_dim: usize) -> Result<(), CudaError> {
        let parts = rows * heads * self.count;
        at_least("the splits' sums", self.mixed.len(), parts * head_dim)?;
        at_least("the splits' weights", self.weights.len(), parts * 2)
    }
}

impl Device {
    /// One new token a row against its slot. With `append` its key and value are written to the cache here; else they must be there.
    ///
    /// # Errors
    /// [`CudaError::Size`] where a buffer is too short, or the driver's.
    pub fn attend_newest<T: Format, S: Kept<T>>(
        &self,
        rows: &Rows,
        count: usize,
        tokens: NewTokens<T>,
        cache: &KeyValueCache<S>,
        append: bool,
        splits: &Splits,
    ) -> Result<(), CudaError> {
        let NewTokens { qkv, bias } = tokens;
        let (width, heads) = (cache.width(), cache.heads);
        rows.holds(count)?;
        cache.holds(&rows.limits)?;
        at_least("queries, keys and values", qkv.len(), count * 3 * width)?;
        at_least("their biases", bias.len(), 3 * width)?;
        splits.hold(count, heads, cache.head_dim)?;
        let kernel = format!("attend_newest_{}{}_{}", T::NAME, S::SUFFIX, cache.head_dim);
        let (heads_int, length, append) = (int(heads)?, int(cache.length)?, i32::from(append));
        let scale = scale(cache.head_dim);
        let arguments: [&dyn Argument; 12] = [
            &rows.words,
            qkv,
            bias,
            &cache.keys,
            &cache.values,
            &cache.scales.as_ref(),
            &splits.mixed,
            &splits.weights,
            &heads_int,
            &length,
            &append,
            &scale,
        ];
        let grid = (heads.div_ceil(QUERY_WARPS), count, splits.count);
        // SAFETY: sizes are checked above, slots and columns when they were set.
        unsafe { self.launch(&kernel, grid, ATTENTION_THREADS, &arguments) }
    }

    /// Writes the keys and values of new rows to the cache, with their biases.
    ///
    /// # Errors
    /// [`CudaError::Size`] where a buffer is too short, or the driver's.
    pub fn append<T: Format, S: Kept<T>>(
        &self,
        rows: &Rows,
        count: usize,
        tokens: NewTokens<T>,
        cache: &KeyValueCache<S>,
    ) -> Result<(), CudaError> {
        let NewTokens { qkv, bias } = tokens;
        let width = cache.width();
        rows.holds(count)?;
        cache.holds(&rows.limits)?;
        at_least("queries, keys and values", qkv.len(), count * 3 * width)?;
        at_least("their biases", bias.len(), 3 * width)?;
        let kernel = format!("append_{}{}_{}", T::NAME, S::SUFFIX, cache.head_dim);
        let (heads, length) = (int(cache.heads)?, int(cache.length)?);
        let (keys, values, scales) = (&cache.keys, &cache.values, &cache.scales.as_ref());
        let arguments: [&dyn Argument; 8] = [&rows.words, qkv, bias, keys, values, scales, &heads, &length];
        // SAFETY: sizes are checked above, slots and columns when they were set.
        unsafe { self.launch(&kernel, (count, 1, 1), APPEND_THREADS, &arguments) }
    }

    /// Copies columns between slots.
    ///
    /// # Errors
    /// [`CudaError::Size`] where the cache is smaller than the copies allow for, or the driver's.
    pub fn copy_columns<T: Format, S: Kept<T>>(
        &self,
        copies: &Copies,
        cache: &KeyValueCache<S>,
    ) -> Result<(), CudaError> {
        at_least("the cache's slots", cache.slots, copies.slots)?;
        at_least("the cache's columns", cache.length, copies.columns)?;
        let kernel = format!("copy_columns_{}{}_{}", T::NAME, S::SUFFIX, cache.head_dim);
        let (heads, length) = (int(cache.heads)?, int(cache.length)?);
        let (keys, values, scales) = (&cache.keys, &cache.values, &cache.scales.as_ref());
        let arguments: [&dyn Argument; 6] = [&copies.words, keys, values, scales, &heads, &length];
        // SAFETY: sizes are checked above, slots and columns when they were set.
        unsafe { self.launch(&kernel, (copies.count, cache.heads, 1), ATTENTION_THREADS, &arguments) }
    }

    /// Tiles of queries against their contexts.
    ///
    /// # Errors
    /// [`CudaError::Size`] where a buffer is too short, [`CudaError::Shape`] where no kernel has the head size.
    pub fn attend<T: Format, S: Kept<T>>(&self, attention: &Attention<T, S>) -> Result<(), CudaError> {
        self.attend_by(T::ON_TENSOR_CORES, attention)
    }

    /// As [`Self::attend`], on the tensor cores or not, to compare the two.
    ///
    /// # Errors
    /// As there; [`CudaError::Shape`] where the format has no kernel of this kind.
    pub fn attend_by<T: Format, S: Kept<T>>(
        &self,
        on_tensor_cores: bool,
        attention: &Attention<T, S>,
    ) -> Result<(), CudaError> {
        let Attention { tiles, queries, query_stride, query_bias, value_bias, contexts, heads, head_dim, out } =
            *attention;
        served(head_dim)?;
        let width = heads * head_dim;
        let limits = &tiles.limits;
        let last = |count: usize, stride: usize| count.saturating_sub(1) * stride;
        at_least("queries", queries.len(), last(limits.queries, query_stride) + width)?;
        at_least("attention's result", out.len(), limits.out * width)?;
        at_least("contexts", contexts.contexts, limits.contexts)?;
        at_least("columns", contexts.columns, limits.columns)?;
        let reach = last(contexts.contexts, contexts.context)
            + last(heads, contexts.head)
            + last(contexts.columns, contexts.column)
            + head_dim;
        at_least("keys", contexts.keys.len(), reach)?;
        at_least("values", contexts.values.len(), reach)?;
        for bias in [query_bias, value_bias].into_iter().flatten() {
            at_least("a bias", bias.len(), width)?;
        }
        if on_tensor_cores && !T::ON_TENSOR_CORES {
            return Err(CudaError::Shape { what: "a number", found: size_of::<T>(), served: "2 bytes" });
        }
        if S::SCALED {
            if !on_tensor_cores || contexts.column != head_dim {
                return Err(CudaError::Shape {
                    what: "a scaled column",
                    found: contexts.column,
                    served: "a head's size",
                });
            }
            let scales = contexts.scales.map_or(0, Buffer::len);
            at_least("scales", scales, reach / head_dim * PAIR)?;
        }
        let (stride, heads_int) = (int(query_stride)?, int(heads)?);
        let (context, head) = (contexts.context as u64, contexts.head as u64);
        let (column, scale) = (int(contexts.column)?, scale(head_dim));
        let arguments: [&dyn Argument; 14] = [
            &tiles.words,
            queries,
            &stride,
            &query_bias,
            contexts.keys,
            contexts.values,
            &contexts.scales,
            &context,
            &head,
            &column,
            &value_bias,
            out,
            &heads_int,
            &scale,
        ];
        let (name, grid, threads) = match on_tensor_cores {
            true => ("tiles", (heads, tiles.count, 1), TILE_THREADS),
            false => ("rows", (heads.div_ceil(QUERY_WARPS), tiles.count, Tile::MOST_ROWS), ATTENTION_THREADS),
        };
        let kernel = format!("attend_{name}_{}{}_{head_dim}", T::NAME, S::SUFFIX);
        // SAFETY: sizes are checked above, the tiles' entries when they were set.
        unsafe { self.launch(&kernel, grid, threads, &arguments) }
    }
}
