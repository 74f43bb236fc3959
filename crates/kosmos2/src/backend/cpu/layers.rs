//! Linear maps, layer norms and buffers that the vision tower, the projection and the decoder share.

use candle_core::{Storage, Tensor};
use kernels::cpu::{
    Attention, Epilogue, PackedWeights, Scratch, WeightFormat, attention, attention_i16, layer_norm,
    layer_norm_in_place, linear,
};

use crate::checkpoint::{CheckpointError, Weights};

/// `y = x Wᵀ + b` with packed weights.
pub(super) struct Linear {
    weights: PackedWeights,
    bias: Vec<f32>,
}

impl Linear {
    /// The linear map of this scope, `[outer, inner]`.
    pub(super) fn load(
        weights: &Weights,
        inner: usize,
        outer: usize,
        format: WeightFormat,
    ) -> Result<Self, CheckpointError> {
        let matrix = weights.get([outer, inner], "weight")?;
        let packed = with_values(&matrix, |rows| PackedWeights::pack(rows, outer, inner, format));
        Ok(Self { weights: packed, bias: vector(weights, outer, "bias")? })
    }

    /// The linear maps with these names as one, with concatenated outputs: their common input is read once.
    pub(super) fn concatenated(
        weights: &Weights,
        names: &[&str],
        inner: usize,
        outer: usize,
        format: WeightFormat,
    ) -> Result<Self, CheckpointError> {
        let (matrix, bias) = concatenated_matrix(weights, names, inner, outer)?;
        Ok(Self::new(&matrix, bias, inner, format))
    }

    /// From a row-major matrix `[outer, inner]` and its bias `[outer]`.
    pub(super) fn new(matrix: &[f32], bias: Vec<f32>, inner: usize, format: WeightFormat) -> Self {
        Self { weights: PackedWeights::pack(matrix, bias.len(), inner, format), bias }
    }

    pub(super) fn inputs(&self) -> usize {
        self.weights.inputs()
    }

    pub(super) fn outputs(&self) -> usize {
        self.weights.outputs()
    }

    /// Size of the packed weights in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.weights.bytes()
    }

    pub(super) fn apply(&self, x: &[f32], epilogue: Epilogue, out: &mut [f32], scratch: &mut Scratch) {
        linear(x, &self.weights, Some(&self.bias), epilogue, out, scratch);
    }
}

/// The linear maps with these names as one row-major matrix with its bias.
pub(super) fn concatenated_matrix(
    weights: &Weights,
    names: &[&str],
    inner: usize,
    outer: usize,
) -> Result<(Vec<f32>, Vec<f32>), CheckpointError> {
    let (mut rows, mut bias) = (Vec::with_capacity(names.len() * outer * inner), Vec::new());
    for name in names {
        let part = weights.pp(name);
        with_values(&part.get([outer, inner], "weight")?, |values| rows.extend_from_slice(values));
        bias.extend(vector(&part, outer, "bias")?);
    }
    Ok((rows, bias))
}

/// Layer norm of rows.
pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
}

impl Norm {
    pub(super) fn load(weights: &Weights, width: usize, eps: f64) -> Result<Self, CheckpointError> {
        let (weight, bias) = (vector(weights, width, "weight")?, vector(weights, width, "bias")?);
        Ok(Self { weight, bias, eps: eps as f32 })
    }

    pub(super) fn apply(&self, x: &[f32], out: &mut [f32]) {
        layer_norm(x, &self.weight, &self.bias, self.eps, out);
    }

    pub(super) fn apply_in_place(&self, x: &mut [f32]) {
        layer_norm_in_place(x, &self.weight, &self.bias, self.eps);
    }
}

/// Attention without a mask, in the arithmetic of a weight format.
pub(super) fn attend(
    queries: Attention<'_>,
    heads: usize,
    head_dim: usize,
    format: WeightFormat,
    scratch: &mut Scratch,
) {
    if format.is_integer() {
        attention_i16(queries, heads, head_dim, scratch);
    } else {
        attention(&mut [queries], heads, head_dim, scratch);
    }
}

/// The values of a one-dimensional tensor.
pub(super) fn vector(weights: &Weights, width: usize, name: &str) -> Result<Vec<f32>, CheckpointError> {
    Ok(with_values(&weights.get([width], name)?, <[f32]>::to_vec))
}

/// Calls `read` with the values of a contiguous f32 tensor on the CPU, without copying them.
pub(super) fn with_values<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> R) -> R {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(candle_core::CpuStorage::F32(values)), Some((start, end))) => read(&values[start..end]),
        _ => unreachable!("the checkpoint was opened in f32 on the CPU and gives whole tensors"),
    }
}

/// A buffer that grows to its largest use and is then reused.
#[derive(Default)]
pub(super) struct Buffer(Vec<f32>);

impl Buffer {
    /// The first `len` values, with unspecified contents.
    pub(super) fn take(&mut self, len: usize) -> &mut [f32] {
        if self.0.len() < len {
            self.0.resize(len, 0.0);
        }
        &mut self.0[..len]
    }
}
