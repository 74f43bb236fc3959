//! Launchers of the kernels that go over whole rows.

use super::attention::Splits;
use super::buffer::Buffer;
use super::device::{CudaError, Device, at_least};
use super::format::Format;
use super::launch::{Argument, int};
use super::pictures::Pictures;
use super::product::Matrix;
use super::tables::{Picks, Rows};

/// Values of a row that a thread owns; as in the kernels.
const OWN: usize = 8;
const MOST_THREADS: usize = 1024;
const ELEMENT_THREADS: usize = 256;
const KEEP_SUM: i32 = 1;
const UNIT_LENGTH: i32 = 2;

/// A layer norm's parameters.
#[derive(Debug, Clone)]
pub struct Norm {
    weight: Buffer<f32>,
    bias: Buffer<f32>,
    eps: f32,
}

impl Norm {
    /// A norm of rows as long as these.
    ///
    /// # Errors
    /// [`CudaError::Size`] where there are fewer biases than weights; [`CudaError::Shape`] where a row is not whole
    /// threads' work or too long for a block.
    pub fn new(weight: Buffer<f32>, bias: Buffer<f32>, eps: f32) -> Result<Self, CudaError> {
        at_least("a norm's bias", bias.len(), weight.len())?;
        threads(weight.len())?;
        Ok(Self { weight, bias, eps })
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.weight.len()
    }
}

/// Threads of a block for a row.
fn threads(width: usize) -> Result<usize, CudaError> {
    let threads = width.div_ceil(OWN).next_multiple_of(32);
    if width == 0 || !width.is_multiple_of(OWN) || threads > MOST_THREADS {
        return Err(CudaError::Shape { what: "a row", found: width, served: "a multiple of 8 up to 8192" });
    }
    Ok(threads)
}

/// Rows of the residual stream, what is added to them, and what comes of them.
pub struct Residual<'a, T> {
    /// The stream, rows of the norm's width.
    pub x: &'a Buffer<f32>,
    /// A product's result and the bias that belongs to it, added first.
    pub added: Option<(&'a Buffer<T>, &'a Buffer<f32>)>,
    /// Which rows of the stream (and of what is added) are taken; all from the first on if absent.
    pub picks: Option<&'a Picks>,
    /// Number of rows that come out.
    pub rows: usize,
    /// The norm.
    pub norm: &'a Norm,
    /// Divide the normed rows by their lengths.
    pub to_unit_length: bool,
    /// The normed rows.
    pub out: &'a Buffer<T>,
}

/// Where the decoder's first rows come from.
pub struct Embedding<'a, T> {
    /// A row a token.
    pub table: &'a Matrix<T>,
    /// For rows that are a picture's.
    pub pictures: Option<&'a Pictures>,
    /// What either is multiplied with.
    pub scale: f32,
    /// A row a position [positions, width], added then.
    pub positions: &'a Buffer<f32>,
}

impl Device {
    /// Adds to the residual stream and norms it. The sum is written back, except where rows are picked.
    ///
    /// # Errors
    /// [`CudaError::Size`] where a buffer is too short, or the driver's.
    pub fn residual_norm<T: Format>(&self, residual: &Residual<T>) -> Result<(), CudaError> {
        let Residual { x, added, picks, rows, norm, to_unit_length, out } = *residual;
        let width = norm.width();
        let sources = picks.map_or(rows, |picks| picks.rows);
        at_least("the residual stream", x.len(), sources * width)?;
        at_least("normed rows", out.len(), rows * width)?;
        if let Some((y, bias)) = added {
            at_least("what is added", y.len(), sources * width)?;
            at_least("a bias", bias.len(), width)?;
        }
        if let Some(picks) = picks {
            at_least("picked rows", picks.words.len(), rows)?;
        }
        let flags = if picks.is_none() { KEEP_SUM } else { 0 } | if to_unit_length { UNIT_LENGTH } else { 0 };
        let (y, y_bias) = added.unzip();
        let words = picks.map(|picks| &picks.words);
        let (kernel, width_int) = (format!("residual_norm_{}", T::NAME), int(width)?);
        let arguments: [&dyn Argument; 10] =
            [x, &y, &y_bias, &words, &norm.weight, &norm.bias, out, &width_int, &norm.eps, &flags];
        // SAFETY: sizes are checked above, picked rows when they were set.
        unsafe { self.launch(&kernel, (rows, 1, 1), threads(width)?, &arguments) }
    }

    /// Norms rows in place.
    ///
    /// # Errors
    /// [`CudaError::Size`] where the buffer is too short, or the driver's.
    pub fn norm_rows<T: Format>(&self, values: &Buffer<T>, rows: usize, norm: &Norm) -> Result<(), CudaError> {
        let width = norm.width();
        at_least("rows to norm", values.len(), rows * width)?;
        let (kernel, width_int) = (format!("norm_rows_{}", T::NAME), int(width)?);
        let arguments: [&dyn Argument; 5] = [values, &norm.weight, &norm.bias, &width_int, &norm.eps];
        // SAFETY: sizes are checked above.
        unsafe { self.launch(&kernel, (rows, 1, 1), threads(width)?, &arguments) }
    }

    /// `values = norm(gelu(values + bias))` in place, with the exact gelu.
    ///
    /// # Errors
    /// [`CudaError::Size`] where a buffer is too short, or the driver's.
    pub fn gelu_norm<T: Format>(
        &self,
        values: &Buffer<T>,
        rows: usize,
        bias: &Buffer<f32>,
        norm: &Norm,
    ) -> Result<(), CudaError> {
        let width = norm.width();
        at_least("rows to norm", values.len(), rows * width)?;
        at_least("a bias", bias.len(), width)?;
        let (kernel, width_int) = (format!("gelu_norm_{}", T::NAME), int(width)?);
        let arguments: [&dyn Argument; 6] = [values, bias, &norm.weight, &norm.bias, &width_int, &norm.eps];
        // SAFETY: sizes are checked above.
        unsafe { self.launch(&kernel, (rows, 1, 1), threads(width)?, &arguments) }
    }

    /// `values = quick_gelu(values + bias)` in place, for rows as long as the bias.
    ///
    /// # Errors
    /// [`CudaError::Size`] where the buffer is too short, or the driver's.
    pub fn quick_gelu<T: Format>(&self, values: &Buffer<T>, rows: usize, bias: &Buffer<f32>) -> Result<(), CudaError> {
        let (width, count) = (bias.len(), rows * bias.len());
        threads(width)?;
        at_least("rows", values.len(), count)?;
        let (kernel, width_int) = (format!("quick_gelu_{}", T::NAME), int(width)?);
        let grid = (count.div_ceil(ELEMENT_THREADS * OWN), 1, 1);
        // SAFETY: sizes are checked above.
        unsafe { self.launch(&kernel, grid, ELEMENT_THREADS, &[values, bias, &width_int, &(count as u64)]) }
    }

    /// `values += bias` in place, for rows as long as the bias.
    ///
    /// # Errors
    /// [`CudaError::Size`] where the buffer is too short, or the driver's.
    pub fn add_bias(&self, values: &Buffer<f32>, rows: usize, bias: &Buffer<f32>) -> Result<(), CudaError> {
        let (width, count) = (bias.len(), rows * bias.len());
        threads(width)?;
        at_least("rows", values.len(), count)?;
        let grid = (count.div_ceil(ELEMENT_THREADS * OWN), 1, 1);
        // SAFETY: sizes are checked above.
        unsafe { self.launch("add_bias_f32", grid, ELEMENT_THREADS, &[values, bias, &int(width)?, &(count as u64)]) }
    }

    /// What the decoder's first layer takes.
    ///
    /// # Errors
    /// [`CudaError::Size`] where a buffer is too short, or the driver's.
    pub fn embed<T: Format>(
        &self,
        rows: &Rows,
        count: usize,
        embedding: &Embedding<T>,
        x: &Buffer<f32>,
    ) -> Result<(), CudaError> {
        let Embedding { table, pictures, scale, positions } = *embedding;
        let width = table.inner();
        rows.holds(count)?;
        at_least("the token table", table.outputs(), rows.limits.tokens)?;
        at_least("the position table", positions.len(), rows.limits.positions * width)?;
        at_least("the residual stream", x.len(), count * width)?;
        if let Some(pictures) = pictures {
            at_least("pictures' rows", pictures.count, count)?;
            at_least("a picture's row", pictures.width, width)?;
        }
        let addresses = pictures.map(|pictures| &pictures.addresses);
        let (kernel, width_int) = (format!("embed_{}", T::NAME), int(width)?);
        let arguments: [&dyn Argument; 7] = [&rows.words, &addresses, table, positions, x, &width_int, &scale];
        // SAFETY: sizes are checked above, entries of the tables when they were set.
        unsafe { self.launch(&kernel, (count, 1, 1), threads(width)?, &arguments) }
    }

    /// Pixels [pictures, 3, size, size] to rows of patches [pictures · patches, padded], zero beyond a patch's values.
    ///
    /// # Errors
    /// [`CudaError::Size`] where a buffer is too short, or the driver's.
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
        at_least("a patch's row", padded, 3 * patch * patch)?;
        at_least("pixels", pixels.len(), pictures * 3 * size * size)?;
        at_least("patches", out.len(), pictures * patches * padded)?;
        let kernel = format!("cut_patches_{}", T::NAME);
        let arguments: [&dyn Argument; 5] = [pixels, out, &int(size)?, &int(patch)?, &int(padded)?];
        // SAFETY: sizes are checked above.
        unsafe { self.launch(&kernel, (pictures * patches, 1, 1), ELEMENT_THREADS, &arguments) }
    }

    /// The vision tower's residual stream [pictures · rows, width]: the class token's row, then a picture's patches `y`
    /// [pictures · (rows − 1), width], with their positions [rows, width], through the norm.
    ///
    /// # Errors
    /// [`CudaError::Size`] where a buffer is too short, or the driver's.
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
        at_least("positions", rows, 1)?;
        at_least("the class token's row", class_row.len(), width)?;
        at_least("patches", y.len(), pictures * (rows - 1) * width)?;
        at_least("the residual stream", x.len(), pictures * rows * width)?;
        let (kernel, rows_int, width_int) = (format!("vision_rows_{}", T::NAME), int(rows)?, int(width)?);
        let arguments: [&dyn Argument; 9] =
            [y, class_row, positions, &norm.weight, &norm.bias, x, &rows_int, &width_int, &norm.eps];
        // SAFETY: sizes are checked above.
        unsafe { self.launch(&kernel, (pictures * rows, 1, 1), threads(width)?, &arguments) }
    }

    /// For each picture its rows of `h` [pictures · rows, width] plus the bias, then the latent queries [latents, width].
    ///
    /// # Errors
    /// [`CudaError::Size`] where a buffer is too short, or the driver's.
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
        at_least("features", h.len(), pictures * rows * width)?;
        at_least("contexts", out.len(), pictures * (rows + latents) * width)?;
        let kernel = format!("with_latent_{}", T::NAME);
        let arguments: [&dyn Argument; 7] = [h, bias, latent, out, &int(rows)?, &int(latents)?, &int(width)?];
        // SAFETY: sizes are checked above.
        unsafe { self.launch(&kernel, (pictures * (rows + latents), 1, 1), threads(width)?, &arguments) }
    }

    /// Joins what the splits of [`Self::attend_newest`] left and norms the joined heads.
    ///
    /// # Errors
    /// [`CudaError::Size`] where a buffer is too short, or the driver's.
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
        if heads == 0 || !width.is_multiple_of(heads) || !head_dim.is_multiple_of(OWN) {
            return Err(CudaError::Shape { what: "a head", found: head_dim, served: "a multiple of 8" });
        }
        splits.hold(rows, heads, head_dim)?;
        at_least("normed rows", out.len(), rows * width)?;
        let kernel = format!("merge_norm_{}", T::NAME);
        let (heads, head_dim, count) = (int(heads)?, int(head_dim)?, int(splits.count)?);
        let arguments: [&dyn Argument; 9] =
            [&splits.mixed, &splits.weights, &norm.weight, &norm.bias, out, &heads, &head_dim, &count, &norm.eps];
        // SAFETY: sizes are checked above.
        unsafe { self.launch(&kernel, (rows, 1, 1), threads(width)?, &arguments) }
    }
}
