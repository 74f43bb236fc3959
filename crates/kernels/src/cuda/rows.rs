//! Launchers of the kernels that process whole rows.

use super::attention::Splits;
use super::buffer::Buffer;
use super::device::{CudaError, Device, check_len};
use super::format::Format;
use super::image_rows::ImageRows;
use super::index_tables::{RowIndices, Rows};
use super::launch::{Argument, int};
use super::matrix::Matrix;

/// Values of a row that a thread handles, as in common.cuh.
const PER_THREAD: usize = 8;
const MAX_THREADS: usize = 1024;
const ELEMENT_THREADS: usize = 256;
/// Flags of `residual_norm`, as in rows.cu.
const KEEP_SUM: i32 = 1;
const UNIT_LENGTH: i32 = 2;

/// The parameters of a layer norm.
#[derive(Debug, Clone)]
pub struct Norm {
    weight: Buffer<f32>,
    bias: Buffer<f32>,
    eps: f32,
}

impl Norm {
    /// A norm of rows of `weight.len()` values.
    ///
    /// # Errors
    /// [`CudaError::Size`] if there are fewer biases than weights; [`CudaError::Shape`] if the row length is not a multiple
    /// of 8 or is above 8192.
    pub fn new(weight: Buffer<f32>, bias: Buffer<f32>, eps: f32) -> Result<Self, CudaError> {
        check_len("a norm's bias", bias.len(), weight.len())?;
        threads(weight.len())?;
        Ok(Self { weight, bias, eps })
    }

    /// Length of a row.
    pub fn width(&self) -> usize {
        self.weight.len()
    }
}

/// Threads of a block that processes a row of `width` values.
fn threads(width: usize) -> Result<usize, CudaError> {
    let threads = width.div_ceil(PER_THREAD).next_multiple_of(32);
    if width == 0 || !width.is_multiple_of(PER_THREAD) || threads > MAX_THREADS {
        return Err(CudaError::Shape { what: "a row length", found: width, supported: "a multiple of 8 up to 8192" });
    }
    Ok(threads)
}

/// The arguments of [`Device::residual_norm`].
pub struct Residual<'a, T> {
    /// The residual stream, rows of the norm's width.
    pub x: &'a Buffer<f32>,
    /// The result of a product and its bias, which are added to the stream first.
    pub added: Option<(&'a Buffer<T>, &'a Buffer<f32>)>,
    /// The rows of `x` (and of what is added) to process; `None` for the first `rows` rows.
    pub row_indices: Option<&'a RowIndices>,
    /// Number of rows of the output.
    pub rows: usize,
    /// The norm.
    pub norm: &'a Norm,
    /// Whether to divide the normalized rows by their L2 norms.
    pub to_unit_length: bool,
    /// The normalized rows.
    pub out: &'a Buffer<T>,
}

/// The arguments of [`Device::embed`].
pub struct Embedding<'a, T> {
    /// The token embeddings, one row per token.
    pub table: &'a Matrix<T>,
    /// Rows of image embeddings that replace token embeddings.
    pub image_rows: Option<&'a ImageRows>,
    /// Factor of both.
    pub scale: f32,
    /// Position embeddings [positions, width], added to the scaled rows.
    pub positions: &'a Buffer<f32>,
}

impl Device {
    /// Adds to the residual stream and applies a layer norm. The sum is written back to the stream unless `row_indices` is
    /// set.
    ///
    /// # Errors
    /// [`CudaError::Size`] if a buffer is too short; [`CudaError::Driver`] if the launch fails.
    pub fn residual_norm<T: Format>(&self, residual: &Residual<T>) -> Result<(), CudaError> {
        let Residual { x, added, row_indices, rows, norm, to_unit_length, out } = *residual;
        let width = norm.width();
        let sources = row_indices.map_or(rows, |indices| indices.rows);
        check_len("the residual stream", x.len(), sources * width)?;
        check_len("the buffer of normalized rows", out.len(), rows * width)?;
        if let Some((y, bias)) = added {
            check_len("the buffer to add", y.len(), sources * width)?;
            check_len("a bias", bias.len(), width)?;
        }
        if let Some(indices) = row_indices {
            check_len("the table of row indices", indices.words.len(), rows)?;
        }
        let flags = if row_indices.is_none() { KEEP_SUM } else { 0 } | if to_unit_length { UNIT_LENGTH } else { 0 };
        let (y, y_bias) = added.unzip();
        let words = row_indices.map(|indices| &indices.words);
        let (kernel, width_int) = (format!("residual_norm_{}", T::NAME), int(width)?);
        let arguments: [&dyn Argument; 10] =
            [x, &y, &y_bias, &words, &norm.weight, &norm.bias, out, &width_int, &norm.eps, &flags];
        // SAFETY: sizes are checked above, row indices when they were set.
        unsafe { self.launch(&kernel, (rows, 1, 1), threads(width)?, &arguments) }
    }

    /// Applies a layer norm to rows in place.
    ///
    /// # Errors
    /// [`CudaError::Size`] if the buffer is too short; [`CudaError::Driver`] if the launch fails.
    pub fn norm_rows<T: Format>(&self, values: &Buffer<T>, rows: usize, norm: &Norm) -> Result<(), CudaError> {
        let width = norm.width();
        check_len("the buffer of rows", values.len(), rows * width)?;
        let (kernel, width_int) = (format!("norm_rows_{}", T::NAME), int(width)?);
        let arguments: [&dyn Argument; 5] = [values, &norm.weight, &norm.bias, &width_int, &norm.eps];
        // SAFETY: sizes are checked above.
        unsafe { self.launch(&kernel, (rows, 1, 1), threads(width)?, &arguments) }
    }

    /// `values = norm(gelu(values + bias))` in place, with the exact gelu.
    ///
    /// # Errors
    /// [`CudaError::Size`] if a buffer is too short; [`CudaError::Driver`] if the launch fails.
    pub fn gelu_norm<T: Format>(
        &self,
        values: &Buffer<T>,
        rows: usize,
        bias: &Buffer<f32>,
        norm: &Norm,
    ) -> Result<(), CudaError> {
        let width = norm.width();
        check_len("the buffer of rows", values.len(), rows * width)?;
        check_len("a bias", bias.len(), width)?;
        let (kernel, width_int) = (format!("gelu_norm_{}", T::NAME), int(width)?);
        let arguments: [&dyn Argument; 6] = [values, bias, &norm.weight, &norm.bias, &width_int, &norm.eps];
        // SAFETY: sizes are checked above.
        unsafe { self.launch(&kernel, (rows, 1, 1), threads(width)?, &arguments) }
    }

    /// `values = quick_gelu(values + bias)` in place, for rows of `bias.len()` values.
    ///
    /// # Errors
    /// [`CudaError::Size`] if the buffer is too short; [`CudaError::Driver`] if the launch fails.
    pub fn quick_gelu<T: Format>(&self, values: &Buffer<T>, rows: usize, bias: &Buffer<f32>) -> Result<(), CudaError> {
        let (width, count) = (bias.len(), rows * bias.len());
        threads(width)?;
        check_len("the buffer of rows", values.len(), count)?;
        let (kernel, width_int) = (format!("quick_gelu_{}", T::NAME), int(width)?);
        let grid = (count.div_ceil(ELEMENT_THREADS * PER_THREAD), 1, 1);
        // SAFETY: sizes are checked above.
        unsafe { self.launch(&kernel, grid, ELEMENT_THREADS, &[values, bias, &width_int, &(count as u64)]) }
    }

    /// `values += bias` in place, for rows of `bias.len()` values.
    ///
    /// # Errors
    /// [`CudaError::Size`] if the buffer is too short; [`CudaError::Driver`] if the launch fails.
    pub fn add_bias(&self, values: &Buffer<f32>, rows: usize, bias: &Buffer<f32>) -> Result<(), CudaError> {
        let (width, count) = (bias.len(), rows * bias.len());
        threads(width)?;
        check_len("the buffer of rows", values.len(), count)?;
        let grid = (count.div_ceil(ELEMENT_THREADS * PER_THREAD), 1, 1);
        // SAFETY: sizes are checked above.
        unsafe { self.launch("add_bias_f32", grid, ELEMENT_THREADS, &[values, bias, &int(width)?, &(count as u64)]) }
    }

    /// The input of the decoder's first layer, to the residual stream `x`.
    ///
    /// # Errors
    /// [`CudaError::Size`] if a buffer is too short; [`CudaError::Driver`] if the launch fails.
    pub fn embed<T: Format>(
        &self,
        rows: &Rows,
        count: usize,
        embedding: &Embedding<T>,
        x: &Buffer<f32>,
    ) -> Result<(), CudaError> {
        let Embedding { table, image_rows, scale, positions } = *embedding;
        let width = table.inner();
        rows.check_count(count)?;
        check_len("the table of token embeddings", table.outputs(), rows.limits.tokens)?;
        check_len("the table of position embeddings", positions.len(), rows.limits.positions * width)?;
        check_len("the residual stream", x.len(), count * width)?;
        if let Some(image_rows) = image_rows {
            check_len("the table of image rows", image_rows.count, count)?;
            check_len("a row of an image embedding", image_rows.width, width)?;
        }
        let addresses = image_rows.map(|image_rows| &image_rows.addresses);
        let (kernel, width_int) = (format!("embed_{}", T::NAME), int(width)?);
        let arguments: [&dyn Argument; 7] = [&rows.words, &addresses, table, positions, x, &width_int, &scale];
        // SAFETY: sizes are checked above, the entries of the tables when they were set.
        unsafe { self.launch(&kernel, (count, 1, 1), threads(width)?, &arguments) }
    }

    /// Cuts pixels [pictures, 3, size, size] into patches, one row each: [pictures · patches, padded]. Rows are padded with
    /// zeros.
    ///
    /// # Errors
    /// [`CudaError::Size`] if a buffer is too short; [`CudaError::Driver`] if the launch fails.
    pub fn cut_patches<T: Format>(
        &self,
        pixels: &Buffer<T>,
        pictures: usize,
        size: usize,
        patch: usize,
        padded: usize,
        out: &Buffer<T>,
    ) -> Result<(), CudaError> {
        let patches = (size / patch) * (size / patch);
        check_len("the row of a patch", padded, 3 * patch * patch)?;
        check_len("the buffer of pixels", pixels.len(), pictures * 3 * size * size)?;
        check_len("the buffer of patches", out.len(), pictures * patches * padded)?;
        let kernel = format!("cut_patches_{}", T::NAME);
        let arguments: [&dyn Argument; 5] = [pixels, out, &int(size)?, &int(patch)?, &int(padded)?];
        // SAFETY: sizes are checked above.
        unsafe { self.launch(&kernel, (pictures * patches, 1, 1), ELEMENT_THREADS, &arguments) }
    }

    /// Computes the vision tower's residual stream [pictures · rows, width]: for each picture the class token's row and the
    /// rows of its patches `y` [pictures · (rows − 1), width], plus the positions [rows, width], through the norm.
    ///
    /// # Errors
    /// [`CudaError::Size`] if a buffer is too short; [`CudaError::Driver`] if the launch fails.
    pub fn vision_rows<T: Format>(
        &self,
        y: &Buffer<T>,
        class_row: &Buffer<f32>,
        positions: &Buffer<f32>,
        pictures: usize,
        norm: &Norm,
        x: &Buffer<f32>,
    ) -> Result<(), CudaError> {
        let width = norm.width();
        let rows = positions.len() / width;
        check_len("the table of positions", rows, 1)?;
        check_len("the class token's row", class_row.len(), width)?;
        check_len("the buffer of patches", y.len(), pictures * (rows - 1) * width)?;
        check_len("the residual stream", x.len(), pictures * rows * width)?;
        let (kernel, rows_int, width_int) = (format!("vision_rows_{}", T::NAME), int(rows)?, int(width)?);
        let arguments: [&dyn Argument; 9] =
            [y, class_row, positions, &norm.weight, &norm.bias, x, &rows_int, &width_int, &norm.eps];
        // SAFETY: sizes are checked above.
        unsafe { self.launch(&kernel, (pictures * rows, 1, 1), threads(width)?, &arguments) }
    }

    /// Concatenates for each picture its rows of `h` [pictures · rows, width], plus the bias, and the latent queries
    /// [latents, width].
    ///
    /// # Errors
    /// [`CudaError::Size`] if a buffer is too short; [`CudaError::Driver`] if the launch fails.
    pub fn with_latent<T: Format>(
        &self,
        h: &Buffer<T>,
        bias: &Buffer<f32>,
        latent: &Buffer<T>,
        pictures: usize,
        rows: usize,
        out: &Buffer<T>,
    ) -> Result<(), CudaError> {
        let width = bias.len();
        let latents = latent.len() / width.max(1);
        check_len("the buffer of features", h.len(), pictures * rows * width)?;
        check_len("the buffer of contexts", out.len(), pictures * (rows + latents) * width)?;
        let kernel = format!("with_latent_{}", T::NAME);
        let arguments: [&dyn Argument; 7] = [h, bias, latent, out, &int(rows)?, &int(latents)?, &int(width)?];
        // SAFETY: sizes are checked above.
        unsafe { self.launch(&kernel, (pictures * (rows + latents), 1, 1), threads(width)?, &arguments) }
    }

    /// Combines the splits of [`Self::attend_newest`] and applies a layer norm to the concatenated heads.
    ///
    /// # Errors
    /// [`CudaError::Size`] if a buffer is too short; [`CudaError::Driver`] if the launch fails.
    pub fn merge_norm<T: Format>(
        &self,
        splits: &Splits,
        rows: usize,
        heads: usize,
        norm: &Norm,
        out: &Buffer<T>,
    ) -> Result<(), CudaError> {
        let width = norm.width();
        let head_dim = width / heads.max(1);
        if heads == 0 || !width.is_multiple_of(heads) || !head_dim.is_multiple_of(PER_THREAD) {
            return Err(CudaError::Shape { what: "a head size", found: head_dim, supported: "a multiple of 8" });
        }
        splits.check_capacity(rows, heads, head_dim)?;
        check_len("the buffer of normalized rows", out.len(), rows * width)?;
        let kernel = format!("merge_norm_{}", T::NAME);
        let (heads, head_dim, count) = (int(heads)?, int(head_dim)?, int(splits.count)?);
        let arguments: [&dyn Argument; 9] = [
            &splits.partial_sums,
            &splits.softmax_stats,
            &norm.weight,
            &norm.bias,
            out,
            &heads,
            &head_dim,
            &count,
            &norm.eps,
        ];
        // SAFETY: sizes are checked above.
        unsafe { self.launch(&kernel, (rows, 1, 1), threads(width)?, &arguments) }
    }
}
