//! Linear maps and layer norms in GPU memory, shared by the vision tower, the projection and the decoder.

use candle_core::Tensor;
use kernels::cuda::{Buffer, CudaError, Device, Format, Matrix, Norm};

use super::computed::Computed;
use crate::checkpoint::{CheckpointError, Weights};

/// `y = x Wᵀ`, with a bias that the next kernel adds to `y`.
pub(super) struct Linear<T> {
    pub(super) weights: Matrix<T>,
    pub(super) bias: Buffer<f32>,
}

impl<T: Computed> Linear<T> {
    /// The linear map of this scope, `[outer, inner]`.
    pub(super) fn load(
        device: &Device,
        weights: &Weights,
        inner: usize,
        outer: usize,
    ) -> Result<Self, CheckpointError> {
        let values = values::<T>(&weights.get([outer, inner], "weight")?);
        Ok(Self { weights: matrix(device, &values, outer, inner)?, bias: vector::<T>(device, weights, outer, "bias")? })
    }

    /// The linear maps with these names as one, with concatenated outputs.
    pub(super) fn concatenated(
        device: &Device,
        weights: &Weights,
        names: &[&str],
        inner: usize,
        outer: usize,
    ) -> Result<Self, CheckpointError> {
        let (mut rows, mut bias) = (Vec::with_capacity(names.len() * outer * inner), Vec::new());
        for name in names {
            let part = weights.pp(name);
            rows.extend(values::<T>(&part.get([outer, inner], "weight")?));
            bias.extend(widened::<T>(&part, outer, "bias")?);
        }
        Ok(Self { weights: matrix(device, &rows, names.len() * outer, inner)?, bias: device.buffer(&bias)? })
    }

    pub(super) fn outputs(&self) -> usize {
        self.weights.outputs()
    }

    /// `y = x Wᵀ` for `rows` rows.
    pub(super) fn apply<O: Format>(
        &self,
        device: &Device,
        x: &Buffer<T>,
        rows: usize,
        y: &Buffer<O>,
    ) -> Result<(), CudaError> {
        device.product(&self.weights, x, rows, y, self.outputs())
    }
}

/// Uploads a matrix `[outer, inner]`.
pub(super) fn matrix<T: Format>(
    device: &Device,
    values: &[T],
    outer: usize,
    inner: usize,
) -> Result<Matrix<T>, CudaError> {
    Matrix::new(device.buffer(values)?, outer, inner)
}

/// Layer norm over rows of `width` values, with `weight` and `bias` of this scope.
pub(super) fn norm<T: Computed>(
    device: &Device,
    weights: &Weights,
    width: usize,
    eps: f64,
) -> Result<Norm, CheckpointError> {
    let vector = |name| vector::<T>(device, weights, width, name);
    Ok(Norm::new(vector("weight")?, vector("bias")?, eps as f32)?)
}

/// Uploads a one-dimensional tensor in f32.
pub(super) fn vector<T: Computed>(
    device: &Device,
    weights: &Weights,
    width: usize,
    name: &str,
) -> Result<Buffer<f32>, CheckpointError> {
    Ok(device.buffer(&widened::<T>(weights, width, name)?)?)
}

fn widened<T: Computed>(weights: &Weights, width: usize, name: &str) -> Result<Vec<f32>, CheckpointError> {
    Ok(wide(&values::<T>(&weights.get([width], name)?)))
}

/// Values in f32.
pub(super) fn wide<T: Format>(values: &[T]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

/// The values of a contiguous tensor on the CPU.
pub(super) fn values<T: Computed>(tensor: &Tensor) -> Vec<T> {
    let (storage, layout) = tensor.storage_and_layout();
    let all = match &*storage {
        candle_core::Storage::Cpu(storage) => T::cpu_storage_as_slice(storage).ok(),
        _ => None,
    };
    match (all, layout.contiguous_offsets()) {
        (Some(values), Some((start, end))) => values[start..end].to_vec(),
        _ => unreachable!("the checkpoint was opened in this format on the CPU and gives whole tensors"),
    }
}
