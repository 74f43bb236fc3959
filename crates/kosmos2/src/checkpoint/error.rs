//! Errors of checkpoints.

/// Why weights cannot be loaded. Each message names the file, the tensor if there is one, and what was expected and
/// found.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The directory has no weight file.
    #[error(
        "{dir}: no weights found; expected model.safetensors, model.safetensors.index.json with its shards, or pytorch_model.bin"
    )]
    NoWeights {
        /// The model directory.
        dir: String,
    },
    /// A file cannot be read.
    #[error("{file}: cannot be read ({cause})")]
    Read {
        /// Path of the file.
        file: String,
        /// The I/O error.
        cause: std::io::Error,
    },
    /// A file is shorter than its header says.
    #[error("{file}: is cut short: {expected} bytes were expected and {found} found; fetch the file again")]
    Truncated {
        /// Path of the file.
        file: String,
        /// Length according to the header, in bytes.
        expected: u64,
        /// Length of the file, in bytes.
        found: u64,
    },
    /// A file is not in the format that its name implies.
    #[error("{file}: is not a readable {kind} file ({reason}); fetch the file again")]
    Malformed {
        /// Path of the file.
        file: String,
        /// The expected format.
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Two shards have a tensor of the same name.
    #[error("{file}: tensor {tensor} is also in {other}; the shards are not of one checkpoint")]
    TwoShards {
        /// Path of one file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// Path of the other file.
        other: String,
    },
    /// A tensor is missing.
    #[error(
        "{file}: tensor {tensor} of shape {expected:?}, which config.json requires, is missing; the file is not a complete KOSMOS-2 checkpoint"
    )]
    MissingTensor {
        /// Path of the file or index.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The shape according to the configuration.
        expected: Vec<usize>,
    },
    /// A tensor does not have the shape that the configuration requires.
    #[error("{file}: tensor {tensor} has shape {found:?}, but config.json requires {expected:?}")]
    Shape {
        /// Path of the file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The shape according to the configuration.
        expected: Vec<usize>,
        /// The stored shape.
        found: Vec<usize>,
    },
    /// A tensor is stored in an unsupported dtype.
    #[error("{file}: tensor {tensor} is stored as {found}, but f32, f16 or bf16 is expected")]
    StoredDType {
        /// Path of the file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The stored dtype.
        found: String,
    },
    /// Converting a tensor or moving it to the device failed.
    #[error("{file}: tensor {tensor} could not be loaded: {cause}")]
    Tensor {
        /// Path of the file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// candle's error. Boxed, since it is much larger than the other variants.
        cause: Box<candle_core::Error>,
    },
    /// The weights could not be uploaded to the GPU.
    #[cfg(feature = "cuda-api")]
    #[error("the weights cannot be uploaded to the GPU: {0}")]
    Cuda(#[from] kernels::cuda::CudaError),
}
