//! The key/value cache, and launchers of the attention kernels that write and read it.

use super::buffer::Buffer;
use super::device::{CudaError, Device, check_len};
use super::format::{Element, Format, KvFormat};
use super::index_tables::{Copies, RowLimits, Rows, Tile, Tiles};
use super::launch::{Argument, int};

/// Heads of a block, as in attention.cu.
const QUERY_WARPS: usize = 4;
const ATTENTION_THREADS: usize = 128;
const TILE_THREADS: usize = 256;
const APPEND_THREADS: usize = 256;

/// Head sizes that the kernels support.
const HEAD_SIZES: [usize; 3] = [16, 32, 64];

/// Fails if the kernels do not support this head size.
pub(super) fn check_head_dim(head_dim: usize) -> Result<(), CudaError> {
    if HEAD_SIZES.contains(&head_dim) {
        return Ok(());
    }
    Err(CudaError::Shape { what: "a head size", found: head_dim, supported: "16, 32 or 64" })
}

/// The factor that turns products of queries and keys into exponents of two.
fn scale(head_dim: usize) -> f32 {
    std::f32::consts::LOG2_E / (head_dim as f32).sqrt()
}

/// Scales of a column: one for its key and one for its value.
const COLUMN_SCALES: usize = 2;

/// The keys and values of one layer: each [slots, heads, length, head_dim], and their scales [slots, heads, length, 2] if
/// the format has scales.
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
    /// A cache for `slots` sequences of `length` tokens, for computations in `T`.
    ///
    /// # Errors
    /// [`CudaError::Shape`] if no kernel supports this head size; [`CudaError::Driver`] if the GPU is out of memory.
    pub fn new<T: Format>(
        device: &Device,
        slots: usize,
        heads: usize,
        length: usize,
        head_dim: usize,
    ) -> Result<Self, CudaError>
    where
        S: KvFormat<T>,
    {
        check_head_dim(head_dim)?;
        let columns = slots * heads * length;
        let side = || device.zeros(columns * head_dim);
        let scales = S::SCALED.then(|| device.zeros(columns * COLUMN_SCALES)).transpose()?;
        Ok(Self { keys: side()?, values: side()?, scales, slots, heads, length, head_dim })
    }

    /// Bytes of a slot of `length` tokens in one layer.
    pub fn slot_bytes<T: Format>(length: usize, heads: usize, head_dim: usize) -> usize
    where
        S: KvFormat<T>,
    {
        let scales = if S::SCALED { COLUMN_SCALES * size_of::<f32>() } else { 0 };
        length * heads * (2 * head_dim * size_of::<S>() + scales)
    }

    /// The slots, as contexts of [`Device::attend`].
    pub fn contexts(&self) -> Contexts<'_, S> {
        Contexts {
            keys: &self.keys,
            values: &self.values,
            scales: self.scales.as_ref(),
            context_stride: self.heads * self.length * self.head_dim,
            head_stride: self.length * self.head_dim,
            column_stride: self.head_dim,
            contexts: self.slots,
            columns: self.length,
        }
    }

    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Fails if the cache is smaller than the limits of a table.
    fn check_limits(&self, limits: &RowLimits) -> Result<(), CudaError> {
        check_len("the cache's number of slots", self.slots, limits.slots)?;
        check_len("the cache's number of columns", self.length, limits.columns)
    }
}

/// The keys and values of several contexts, and the distances between contexts, heads and columns.
#[derive(Debug, Clone, Copy)]
pub struct Contexts<'a, S> {
    /// Keys, from the first column of the first context on.
    pub keys: &'a Buffer<S>,
    /// Values, likewise.
    pub values: &'a Buffer<S>,
    /// The scales of the columns, if the format has scales. Then keys and values must be contiguous.
    pub scales: Option<&'a Buffer<f32>>,
    /// Distance from one context to the next, in values.
    pub context_stride: usize,
    /// Distance from one head to the next, in values.
    pub head_stride: usize,
    /// Distance from one column to the next, in values.
    pub column_stride: usize,
    /// Number of contexts.
    pub contexts: usize,
    /// Number of columns of each.
    pub columns: usize,
}

/// Queries, keys and values of new tokens, concatenated as [rows, 3 · width], and their bias [3 · width], which is not yet
/// added.
#[derive(Debug, Clone, Copy)]
pub struct NewTokens<'a, T> {
    /// The queries, keys and values without bias.
    pub qkv: &'a Buffer<T>,
    /// The bias.
    pub bias: &'a Buffer<f32>,
}

/// The arguments of [`Device::attend`].
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a, T, S = T> {
    /// The tiles of queries, and what they see.
    pub tiles: &'a Tiles,
    /// Rows of heads · head_dim values.
    pub queries: &'a Buffer<T>,
    /// Distance from one row of queries to the next, in values.
    pub query_stride: usize,
    /// Bias of the queries.
    pub query_bias: Option<&'a Buffer<f32>>,
    /// Bias of the values. A bias of the keys would not change the result.
    pub value_bias: Option<&'a Buffer<f32>>,
    /// Keys and values.
    pub contexts: &'a Contexts<'a, S>,
    /// Number of heads.
    pub heads: usize,
    /// Values of each head.
    pub head_dim: usize,
    /// Rows of heads · head_dim values.
    pub out: &'a Buffer<T>,
}

/// The partial results of the splits of contexts, which [`Device::merge_norm`] combines.
#[derive(Debug, Clone)]
pub struct Splits {
    /// Weighted sums of values, not normalized.
    pub(super) partial_sums: Buffer<f32>,
    /// The largest score and the sum of weights of each split and head.
    pub(super) softmax_stats: Buffer<f32>,
    /// Splits of each context.
    pub(super) count: usize,
}

impl Splits {
    /// Buffers for `parts` partial results: rows times splits.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the device is out of memory.
    pub fn new(device: &Device, parts: usize, heads: usize, head_dim: usize) -> Result<Self, CudaError> {
        let (partial_sums, softmax_stats) = (device.zeros(parts * heads * head_dim)?, device.zeros(parts * heads * 2)?);
        Ok(Self { partial_sums, softmax_stats, count: 1 })
    }

    /// The same buffers, used for `count` splits of each row's context.
    #[must_use]
    pub fn of(&self, count: usize) -> Self {
        Self { count: count.max(1), ..self.clone() }
    }

    /// Fails if the buffers are too small for so many rows and heads.
    pub(super) fn check_capacity(&self, rows: usize, heads: usize, head_dim: usize) -> Result<(), CudaError> {
        let parts = rows * heads * self.count;
        check_len("the buffer of partial sums", self.partial_sums.len(), parts * head_dim)?;
        check_len("the buffer of softmax statistics", self.softmax_stats.len(), parts * 2)
    }
}

impl Device {
    /// Attention of one new token per row over its slot. With `append` the token's key and value are written to the cache
    /// here; otherwise they must be there already.
    ///
    /// # Errors
    /// [`CudaError::Size`] if a buffer is too short; [`CudaError::Driver`] if the launch fails.
    pub fn attend_newest<T: Format, S: KvFormat<T>>(
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
        rows.check_count(count)?;
        cache.check_limits(&rows.limits)?;
        check_len("the buffer of queries, keys and values", qkv.len(), count * 3 * width)?;
        check_len("the bias of queries, keys and values", bias.len(), 3 * width)?;
        splits.check_capacity(count, heads, cache.head_dim)?;
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
            &splits.partial_sums,
            &splits.softmax_stats,
            &heads_int,
            &length,
            &append,
            &scale,
        ];
        let grid = (heads.div_ceil(QUERY_WARPS), count, splits.count);
        // SAFETY: sizes are checked above, slots and columns when the table was set.
        unsafe { self.launch(&kernel, grid, ATTENTION_THREADS, &arguments) }
    }

    /// Writes the keys and values of new rows, plus their biases, to the cache.
    ///
    /// # Errors
    /// [`CudaError::Size`] if a buffer is too short; [`CudaError::Driver`] if the launch fails.
    pub fn append<T: Format, S: KvFormat<T>>(
        &self,
        rows: &Rows,
        count: usize,
        tokens: NewTokens<T>,
        cache: &KeyValueCache<S>,
    ) -> Result<(), CudaError> {
        let NewTokens { qkv, bias } = tokens;
        let width = cache.width();
        rows.check_count(count)?;
        cache.check_limits(&rows.limits)?;
        check_len("the buffer of queries, keys and values", qkv.len(), count * 3 * width)?;
        check_len("the bias of queries, keys and values", bias.len(), 3 * width)?;
        let kernel = format!("append_{}{}_{}", T::NAME, S::SUFFIX, cache.head_dim);
        let (heads, length) = (int(cache.heads)?, int(cache.length)?);
        let (keys, values, scales) = (&cache.keys, &cache.values, &cache.scales.as_ref());
        let arguments: [&dyn Argument; 8] = [&rows.words, qkv, bias, keys, values, scales, &heads, &length];
        // SAFETY: sizes are checked above, slots and columns when the table was set.
        unsafe { self.launch(&kernel, (count, 1, 1), APPEND_THREADS, &arguments) }
    }

    /// Copies columns between slots.
    ///
    /// # Errors
    /// [`CudaError::Size`] if the cache is smaller than the table's limits; [`CudaError::Driver`] if the launch fails.
    pub fn copy_columns<T: Format, S: KvFormat<T>>(
        &self,
        copies: &Copies,
        cache: &KeyValueCache<S>,
    ) -> Result<(), CudaError> {
        check_len("the cache's number of slots", cache.slots, copies.slots)?;
        check_len("the cache's number of columns", cache.length, copies.columns)?;
        let kernel = format!("copy_columns_{}{}_{}", T::NAME, S::SUFFIX, cache.head_dim);
        let (heads, length) = (int(cache.heads)?, int(cache.length)?);
        let (keys, values, scales) = (&cache.keys, &cache.values, &cache.scales.as_ref());
        let arguments: [&dyn Argument; 6] = [&copies.words, keys, values, scales, &heads, &length];
        // SAFETY: sizes are checked above, slots and columns when the table was set.
        unsafe { self.launch(&kernel, (copies.count, cache.heads, 1), ATTENTION_THREADS, &arguments) }
    }

    /// Attention of tiles of queries over their contexts.
    ///
    /// # Errors
    /// [`CudaError::Size`] if a buffer is too short; [`CudaError::Shape`] if no kernel supports the head size;
    /// [`CudaError::Driver`] if the launch fails.
    pub fn attend<T: Format, S: KvFormat<T>>(&self, attention: &Attention<T, S>) -> Result<(), CudaError> {
        self.attend_by(T::ON_TENSOR_CORES, attention)
    }

    /// Like [`Self::attend`], on the tensor cores or not, for comparisons.
    ///
    /// # Errors
    /// Like [`Self::attend`]; [`CudaError::Shape`] if the format has no such kernel.
    pub fn attend_by<T: Format, S: KvFormat<T>>(
        &self,
        on_tensor_cores: bool,
        attention: &Attention<T, S>,
    ) -> Result<(), CudaError> {
        let Attention { tiles, queries, query_stride, query_bias, value_bias, contexts, heads, head_dim, out } =
            *attention;
        check_head_dim(head_dim)?;
        let width = heads * head_dim;
        let limits = &tiles.limits;
        let last_offset = |count: usize, stride: usize| count.saturating_sub(1) * stride;
        check_len("the buffer of queries", queries.len(), last_offset(limits.queries, query_stride) + width)?;
        check_len("the output of attention", out.len(), limits.out * width)?;
        check_len("the number of contexts", contexts.contexts, limits.contexts)?;
        check_len("the number of columns", contexts.columns, limits.columns)?;
        let end = last_offset(contexts.contexts, contexts.context_stride)
            + last_offset(heads, contexts.head_stride)
            + last_offset(contexts.columns, contexts.column_stride)
            + head_dim;
        check_len("the buffer of keys", contexts.keys.len(), end)?;
        check_len("the buffer of values", contexts.values.len(), end)?;
        for bias in [query_bias, value_bias].into_iter().flatten() {
            check_len("a bias", bias.len(), width)?;
        }
        if on_tensor_cores && !T::ON_TENSOR_CORES {
            return Err(CudaError::Shape { what: "values with bytes each", found: size_of::<T>(), supported: "2" });
        }
        if S::SCALED {
            if !on_tensor_cores || contexts.column_stride != head_dim {
                return Err(CudaError::Shape {
                    what: "a column stride with scales",
                    found: contexts.column_stride,
                    supported: "the head size",
                });
            }
            let scales = contexts.scales.map_or(0, Buffer::len);
            check_len("the buffer of scales", scales, end / head_dim * COLUMN_SCALES)?;
        }
        let (stride, heads_int) = (int(query_stride)?, int(heads)?);
        let (context_stride, head_stride) = (contexts.context_stride as u64, contexts.head_stride as u64);
        let (column_stride, scale) = (int(contexts.column_stride)?, scale(head_dim));
        let arguments: [&dyn Argument; 14] = [
            &tiles.words,
            queries,
            &stride,
            &query_bias,
            contexts.keys,
            contexts.values,
            &contexts.scales,
            &context_stride,
            &head_stride,
            &column_stride,
            &value_bias,
            out,
            &heads_int,
            &scale,
        ];
        let (name, grid, threads) = match on_tensor_cores {
            true => ("tiles", (heads, tiles.count, 1), TILE_THREADS),
            false => ("rows", (heads.div_ceil(QUERY_WARPS), tiles.count, Tile::MAX_ROWS), ATTENTION_THREADS),
        };
        let kernel = format!("attend_{name}_{}{}_{head_dim}", T::NAME, S::SUFFIX);
        // SAFETY: sizes are checked above, the entries of the tiles when they were set.
        unsafe { self.launch(&kernel, grid, threads, &arguments) }
    }
}
