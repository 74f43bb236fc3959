//! Matrix products: by cuBLAS, and by a kernel of its own for a few rows, which only read the weights.

use super::buffer::Buffer;
use super::device::{CudaError, Device, at_least};
use super::driver::Product;
use super::format::Format;
use super::launch::{Argument, int};

/// Weights [outputs, inner], row after row.
#[derive(Debug, Clone)]
pub struct Matrix<T> {
    pub(super) values: Buffer<T>,
    outputs: usize,
    inner: usize,
}

impl<T: Format> Matrix<T> {
    /// These values as a matrix.
    ///
    /// # Errors
    /// [`CudaError::Size`] where they are not as many as the matrix has; [`CudaError::Shape`] where a row does not fill
    /// loads of 16 bytes.
    pub fn new(values: Buffer<T>, outputs: usize, inner: usize) -> Result<Self, CudaError> {
        if values.len() != outputs * inner {
            return Err(CudaError::Size { what: "a matrix", found: values.len(), needed: outputs * inner });
        }
        if !inner.is_multiple_of(8) {
            return Err(CudaError::Shape { what: "a matrix row", found: inner, served: "a multiple of 8" });
        }
        Ok(Self { values, outputs, inner })
    }

    /// Values of a result's row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Values of a row that it is multiplied with.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// Its values.
    pub fn values(&self) -> &Buffer<T> {
        &self.values
    }
}

/// How a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By cuBLAS.
    Blas,
    /// By the kernel for a few rows.
    FewRows,
}

/// Warps of a block of the kernel for a few rows; as there.
const FEW_WARPS: usize = 8;
/// Warps that are on a card of 132 multiprocessors at once.
const WARPS: usize = 132 * 48;

/// Whether the kernel for a few rows has a version for so many: more go to cuBLAS, which is as fast for them.
fn is_few(rows: usize) -> bool {
    [1, 2].contains(&rows)
}

impl Device {
    /// `y = x Wᵀ` for `rows` rows of `x`; rows of `y` begin `stride` values apart. Sums are f32, never TF32.
    ///
    /// # Errors
    /// [`CudaError::Size`] where a buffer is too short, or cuBLAS's.
    pub fn product<T: Format, O: Format>(
        &self,
        weights: &Matrix<T>,
        x: &Buffer<T>,
        rows: usize,
        y: &Buffer<O>,
        stride: usize,
    ) -> Result<(), CudaError> {
        let way = if is_few(rows) { Way::FewRows } else { Way::Blas };
        self.product_by(way, weights, x, rows, y, stride)
    }

    /// As [`Self::product`], in a way of the caller's choice, to compare them. The kernel for a few rows takes 1 or 2 of
    /// them.
    ///
    /// # Errors
    /// As there; [`CudaError::Shape`] where the way does not serve so many rows, or a result in this format.
    pub fn product_by<T: Format, O: Format>(
        &self,
        way: Way,
        weights: &Matrix<T>,
        x: &Buffer<T>,
        rows: usize,
        y: &Buffer<O>,
        stride: usize,
    ) -> Result<(), CudaError> {
        let Matrix { outputs, inner, .. } = *weights;
        at_least("a product's input", x.len(), rows * inner)?;
        at_least("a product's row", stride, outputs)?;
        at_least("a product's result", y.len(), rows.saturating_sub(1) * stride + outputs)?;
        let result = match O::NAME {
            name if name == T::NAME => "own",
            "f32" => "wide",
            _ => {
                return Err(CudaError::Shape { what: "a result", found: size_of::<O>(), served: "f32 or the input's" });
            }
        };
        if rows == 0 {
            return Ok(());
        }
        if way == Way::FewRows {
            if !is_few(rows) {
                return Err(CudaError::Shape { what: "a product", found: rows, served: "1 or 2 rows" });
            }
            let kernel = format!("few_rows_{}_{result}_{rows}", T::NAME);
            // Where one warp an output leaves the card half empty, two.
            let parts = if 2 * outputs <= WARPS { 2 } else { 1 };
            let grid = (outputs.div_ceil(FEW_WARPS / parts), 1, 1);
            let [inner, outputs, stride, parts] = [int(inner)?, int(outputs)?, int(stride)?, int(parts)?];
            let arguments: [&dyn Argument; 7] = [weights, x, y, &inner, &outputs, &stride, &parts];
            // SAFETY: sizes are checked above; rows of weights and of x are whole loads, as `Matrix::new` sees to.
            return unsafe { self.launch(&kernel, grid, FEW_WARPS * 32, &arguments) };
        }
        self.keep(&weights.values);
        self.keep(x);
        self.keep(y);
        let product = Product {
            weights: weights.values.address(),
            x: x.address(),
            y: y.address(),
            kind: T::KIND,
            result: O::KIND,
            outputs: int(outputs)?,
            rows: int(rows)?,
            inner: int(inner)?,
            stride: int(stride)?,
        };
        // SAFETY: sizes are checked above; all three lie on this device.
        Ok(unsafe { self.driver.product(&product) }?)
    }
}
