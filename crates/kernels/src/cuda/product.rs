//! Matrix products: by cuBLAS, and by our own kernel for one or two rows, which is bound by reading the weights.

use super::buffer::Buffer;
use super::device::{CudaError, Device, check_len};
use super::driver::Gemm;
use super::format::Format;
use super::launch::{Argument, int};
use super::matrix::Matrix;

/// Which implementation computes a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProductKernel {
    /// cuBLAS.
    Blas,
    /// The kernel for one or two rows.
    FewRows,
}

/// Warps of a block of `few_rows`, as in rows.cu.
const FEW_WARPS: usize = 8;
/// Warps that run concurrently on a GPU of 132 multiprocessors.
const CONCURRENT_WARPS: usize = 132 * 48;

/// Whether there is a `few_rows` kernel for so many rows. For more rows cuBLAS is as fast.
fn is_few(rows: usize) -> bool {
    [1, 2].contains(&rows)
}

impl Device {
    /// `y = x Wᵀ` for `rows` rows of `x`; rows of `y` are `stride` values apart. Sums are f32, never TF32.
    ///
    /// # Errors
    /// [`CudaError::Size`] if a buffer is too short; [`CudaError::Driver`] if cuBLAS or the launch fails.
    pub fn product<T: Format, O: Format>(
        &self,
        weights: &Matrix<T>,
        x: &Buffer<T>,
        rows: usize,
        y: &Buffer<O>,
        stride: usize,
    ) -> Result<(), CudaError> {
        let kernel = if is_few(rows) { ProductKernel::FewRows } else { ProductKernel::Blas };
        self.product_by(kernel, weights, x, rows, y, stride)
    }

    /// Like [`Self::product`], with a given implementation, for comparisons. [`ProductKernel::FewRows`] takes 1 or 2 rows.
    ///
    /// # Errors
    /// Like [`Self::product`]; [`CudaError::Shape`] if the implementation does not support this number of rows or this format
    /// of the result.
    pub fn product_by<T: Format, O: Format>(
        &self,
        kernel: ProductKernel,
        weights: &Matrix<T>,
        x: &Buffer<T>,
        rows: usize,
        y: &Buffer<O>,
        stride: usize,
    ) -> Result<(), CudaError> {
        let (outputs, inner) = (weights.outputs(), weights.inner());
        check_len("the input of a product", x.len(), rows * inner)?;
        check_len("the stride of a product's rows", stride, outputs)?;
        check_len("the result of a product", y.len(), rows.saturating_sub(1) * stride + outputs)?;
        let result = match O::NAME {
            name if name == T::NAME => "own",
            "f32" => "wide",
            _ => {
                return Err(CudaError::Shape {
                    what: "a result format with bytes per value",
                    found: size_of::<O>(),
                    supported: "f32 or the input's format",
                });
            }
        };
        if rows == 0 {
            return Ok(());
        }
        if kernel == ProductKernel::FewRows {
            if !is_few(rows) {
                return Err(CudaError::Shape { what: "a number of rows", found: rows, supported: "1 or 2" });
            }
            let name = format!("few_rows_{}_{result}_{rows}", T::NAME);
            // Two warps per output if one would leave half of the GPU idle.
            let warps_per_output = if 2 * outputs <= CONCURRENT_WARPS { 2 } else { 1 };
            let grid = (outputs.div_ceil(FEW_WARPS / warps_per_output), 1, 1);
            let [inner, outputs, stride] = [int(inner)?, int(outputs)?, int(stride)?];
            let warps_per_output = int(warps_per_output)?;
            let arguments: [&dyn Argument; 7] = [weights, x, y, &inner, &outputs, &stride, &warps_per_output];
            // SAFETY: sizes are checked above; `Matrix::new` ensures that rows of weights and of `x` are whole loads.
            return unsafe { self.launch(&name, grid, FEW_WARPS * 32, &arguments) };
        }
        self.keep_alive(weights.values());
        self.keep_alive(x);
        self.keep_alive(y);
        let gemm = Gemm {
            weights: weights.values().address(),
            x: x.address(),
            y: y.address(),
            data_type: T::DATA_TYPE,
            result_type: O::DATA_TYPE,
            outputs: int(outputs)?,
            rows: int(rows)?,
            inner: int(inner)?,
            stride: int(stride)?,
        };
        // SAFETY: sizes are checked above; all three buffers are on this device.
        Ok(unsafe { self.driver.gemm(&gemm) }?)
    }
}
