//! A card: the CUDA driver and cuBLAS, by way of cudarc.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublas::sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
use cudarc::cublas::sys::cublasGemmAlgo_t::CUBLAS_GEMM_DFALT;
use cudarc::cublas::sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
use cudarc::cublas::sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
use cudarc::cublas::sys::cudaDataType;
use cudarc::cublas::{CudaBlas, result as blas, sys as blas_sys};
use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaSlice, CudaStream, DevicePtr, LaunchConfig,
    PushKernelArg, result,
};
use cudarc::nvrtc::Ptx;

use super::{DriverError, Product, Shape};
use crate::cuda::format::Kind;

/// The compiled kernels.
static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// Of cuBLAS, in bytes; what its manual recommends for Hopper. Given to it, since it must not take memory while a step is
/// recorded.
const WORKSPACE: usize = 32 << 20;

/// Names the call in an error.
fn failed<E: std::fmt::Debug>(call: &'static str) -> impl Fn(E) -> DriverError {
    move |error| DriverError { call, reason: format!("{error:?}") }
}

/// A card's one stream and what is loaded there.
pub(in crate::cuda) struct Driver {
    stream: Arc<CudaStream>,
    blas: CudaBlas,
    module: Arc<CudaModule>,
    functions: Mutex<HashMap<String, CudaFunction>>,
    _workspace: CudaSlice<u8>,
}

/// Bytes of the card.
#[derive(Debug)]
pub(in crate::cuda) struct Memory(CudaSlice<u8>);

impl Memory {
    pub(in crate::cuda) fn address(&self) -> u64 {
        // Events are not tracked: the guard has nothing to record.
        let (address, _guard) = self.0.device_ptr(self.0.stream());
        address
    }
}

/// A moment in the stream.
pub(in crate::cuda) struct Event(CudaEvent);

/// A recorded step.
pub(in crate::cuda) struct Recording(CudaGraph);

// SAFETY: a graph must not be used by two threads at once, which `&mut self` of its only method sees to; the driver does
// not tie it to the thread that recorded it.
unsafe impl Send for Recording {}

impl Recording {
    pub(in crate::cuda) fn replay(&mut self) -> Result<(), DriverError> {
        self.0.launch().map_err(failed("replaying a step"))
    }
}

impl Driver {
    pub(in crate::cuda) fn open(ordinal: usize) -> Result<Self, DriverError> {
        let context = CudaContext::new(ordinal).map_err(failed("opening the card"))?;
        // SAFETY: everything of this context is taken, used and freed on the one stream below.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed("making a stream"))?;
        let module = context.load_module(Ptx::from_binary(KERNELS.to_vec())).map_err(failed("loading the kernels"))?;
        let blas = CudaBlas::new(Arc::clone(&stream)).map_err(failed("opening cuBLAS"))?;
        let workspace = stream.alloc_zeros::<u8>(WORKSPACE).map_err(failed("taking cuBLAS's workspace"))?;
        let address = {
            let (address, _guard) = workspace.device_ptr(&stream);
            address
        };
        // SAFETY: the workspace is as long as said and lives as long as the handle: both are this value's.
        unsafe {
            let set = blas_sys::cublasSetWorkspace_v2(*blas.handle(), address as *mut _, WORKSPACE);
            set.result().map_err(failed("giving cuBLAS its workspace"))?;
            // Sums of a product stay in f32 also where it is split over its inner dimension. TF32 is off unless asked for.
            let set = blas_sys::cublasSetMathMode(*blas.handle(), CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
            set.result().map_err(failed("setting cuBLAS's mode"))?;
        }
        Ok(Self { stream, blas, module, functions: Mutex::default(), _workspace: workspace })
    }

    pub(in crate::cuda) fn name(&self) -> Result<String, DriverError> {
        self.stream.context().name().map_err(failed("asking for the card's name"))
    }

    /// Bytes free, and all.
    pub(in crate::cuda) fn memory(&self) -> Result<(usize, usize), DriverError> {
        self.stream.context().mem_get_info().map_err(failed("asking for free memory"))
    }

    pub(in crate::cuda) fn zeros(&self, bytes: usize) -> Result<Memory, DriverError> {
        self.stream.alloc_zeros(bytes).map(Memory).map_err(failed("taking memory"))
    }

    /// # Safety
    /// The target is as long as the bytes.
    pub(in crate::cuda) unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<(), DriverError> {
        self.bind()?;
        // SAFETY: the caller's. The driver has read pageable memory of the host when it returns.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) }.map_err(failed("copying to the card"))
    }

    /// # Safety
    /// The source is as long as the bytes, and they may hold anything.
    pub(in crate::cuda) unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), DriverError> {
        self.bind()?;
        // SAFETY: the caller's; nothing touches the bytes until the stream has been waited for.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()) }
            .map_err(failed("copying from the card"))?;
        self.wait()
    }

    /// # Safety
    /// Both are as long as said.
    pub(in crate::cuda) unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DriverError> {
        self.bind()?;
        // SAFETY: the caller's.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(failed("copying within the card"))
    }

    pub(in crate::cuda) fn wait(&self) -> Result<(), DriverError> {
        self.stream.synchronize().map_err(failed("waiting for the card"))
    }

    pub(in crate::cuda) fn event(&self) -> Result<Event, DriverError> {
        self.stream.record_event(Some(CU_EVENT_DEFAULT)).map(Event).map_err(failed("marking a moment"))
    }

    /// Seconds between two moments, once the second has come.
    pub(in crate::cuda) fn seconds(&self, from: &Event, to: &Event) -> Result<f64, DriverError> {
        to.0.synchronize().map_err(failed("waiting for a moment"))?;
        from.0.elapsed_ms(&to.0).map(|ms| f64::from(ms) / 1e3).map_err(failed("asking for a time"))
    }

    /// # Safety
    /// The arguments are the kernel's, each in the first bytes of its word, and it touches only memory that is there.
    pub(in crate::cuda) unsafe fn launch(&self, kernel: &str, shape: Shape, words: &[u64]) -> Result<(), DriverError> {
        let function = self.function(kernel)?;
        let mut launch = self.stream.launch_builder(&function);
        words.iter().for_each(|word| {
            launch.arg(word);
        });
        let Shape { grid, threads } = shape;
        let config = LaunchConfig { grid_dim: grid, block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the caller's.
        unsafe { launch.launch(config) }.map(drop).map_err(failed("launching a kernel"))
    }

    /// # Safety
    /// The three lie in memory that is there.
    pub(in crate::cuda) unsafe fn product(&self, product: &Product) -> Result<(), DriverError> {
        let Product { weights, x, y, kind, result, outputs, rows, inner, stride } = *product;
        self.bind()?;
        let (one, zero) = (1f32, 0f32);
        // cuBLAS counts columns first: yᵀ [outputs, rows] = W xᵀ, with W and x as they lie.
        // SAFETY: the caller's.
        unsafe {
            blas::gemm_ex(
                *self.blas.handle(),
                CUBLAS_OP_T,
                CUBLAS_OP_N,
                outputs,
                rows,
                inner,
                (&raw const one).cast(),
                weights as *const _,
                data_type(kind),
                inner,
                x as *const _,
                data_type(kind),
                inner,
                (&raw const zero).cast(),
                y as *mut _,
                data_type(result),
                stride,
                CUBLAS_COMPUTE_32F,
                CUBLAS_GEMM_DFALT,
            )
        }
        .map_err(failed("multiplying matrices"))
    }

    pub(in crate::cuda) fn begin_recording(&self) -> Result<(), DriverError> {
        // What other threads do elsewhere is none of this recording's business.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream.begin_capture(mode).map_err(failed("beginning to record"))
    }

    pub(in crate::cuda) fn end_recording(&self) -> Result<Recording, DriverError> {
        let empty = || DriverError { call: "recording a step", reason: "it came out empty".into() };
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0)).map_err(failed("recording a step"))?;
        graph.map(Recording).ok_or_else(empty)
    }

    fn bind(&self) -> Result<(), DriverError> {
        self.stream.context().bind_to_thread().map_err(failed("turning to the card"))
    }

    fn function(&self, name: &str) -> Result<CudaFunction, DriverError> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(function.clone());
        }
        let function = self.module.load_function(name).map_err(failed("looking up a kernel"))?;
        functions.insert(name.to_owned(), function.clone());
        Ok(function)
    }
}

fn data_type(kind: Kind) -> cudaDataType {
    match kind {
        Kind::F32 => cudaDataType::CUDA_R_32F,
        Kind::F16 => cudaDataType::CUDA_R_16F,
        Kind::Bf16 => cudaDataType::CUDA_R_16BF,
    }
}
