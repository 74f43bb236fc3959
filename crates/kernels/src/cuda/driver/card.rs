//! A card: the CUDA driver and cuBLAS, by way of cudarc.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublas::sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
use cudarc::cublas::sys::cublasGemmAlgo_t::CUBLAS_GEMM_DFALT;
use cudarc::cublas::sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
use cudarc::cublas::sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
use cudarc::cublas::sys::cudaDataType;
use cudarc::cublas::{CudaBlas, result as blas, sys as blas_sys};
use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig,
    CUstreamCaptureMode, cuLaunchKernelEx,
};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaSlice, CudaStream, DevicePtr, result,
};
use cudarc::nvrtc::Ptx;

use super::{DriverError, Product, Shape};
use crate::cuda::format::Kind;

/// The compiled kernels.
static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// Of cuBLAS, in bytes; what its manual recommends for Hopper. Given to it, since it must not take memory while a step is
/// recorded.
const WORKSPACE: usize = 32 << 20;

/// The first generation of cards (compute capability, in front of the point) whose kernels can start early: Hopper.
const FIRST_EARLY: i32 = 9;

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
    /// Whether kernels can be launched while the one before them still runs: from Hopper on.
    starts_early: bool,
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

/// Bytes of the host that the card copies by itself.
#[derive(Debug)]
pub(in crate::cuda) struct Pinned {
    start: NonNull<u8>,
    len: usize,
    stream: Arc<CudaStream>,
}

// SAFETY: it owns its memory, which no thread is tied to.
unsafe impl Send for Pinned {}
// SAFETY: what can be reached through a shared reference only reads.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(in crate::cuda) fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is as long, zero or written since, and lives as long as this value.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(in crate::cuda) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else refers to it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // An error here has nowhere to go; what is left is freed with the process.
        let _ = self.stream.context().bind_to_thread();
        // SAFETY: the driver gave it, and nothing refers to it any more.
        let _ = unsafe { result::free_host(self.start.as_ptr().cast()) };
    }
}

/// A moment in the stream.
#[derive(Debug)]
pub(in crate::cuda) struct Event(CudaEvent);

impl Event {
    /// Waits for it.
    pub(in crate::cuda) fn wait(&self) -> Result<(), DriverError> {
        self.0.synchronize().map_err(failed("waiting for a moment"))
    }
}

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
        let (generation, _) = stream.context().compute_capability().map_err(failed("asking what the card can do"))?;
        let starts_early = generation >= FIRST_EARLY;
        Ok(Self { stream, blas, module, functions: Mutex::default(), starts_early, _workspace: workspace })
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

    pub(in crate::cuda) fn pinned(&self, len: usize) -> Result<Pinned, DriverError> {
        self.bind()?;
        // SAFETY: no flags; zeroed before anyone reads it.
        let start = unsafe { result::malloc_host(len.max(1), 0) }.map_err(failed("taking memory of the host"))?;
        let start = NonNull::new(start.cast::<u8>())
            .ok_or(DriverError { call: "taking memory of the host", reason: "there is none".into() })?;
        // SAFETY: it is as long.
        unsafe { start.as_ptr().write_bytes(0, len) };
        Ok(Pinned { start, len, stream: Arc::clone(&self.stream) })
    }

    /// # Safety
    /// The target is as long as the bytes, which nobody changes until the copy is done.
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
        to.wait()?;
        from.0.elapsed_ms(&to.0).map(|ms| f64::from(ms) / 1e3).map_err(failed("asking for a time"))
    }

    /// # Safety
    /// The arguments are the kernel's, each in the first bytes of its word, and it touches only memory that is there.
    pub(in crate::cuda) unsafe fn launch(&self, kernel: &str, shape: Shape, words: &[u64]) -> Result<(), DriverError> {
        let function = self.function(kernel)?;
        self.bind()?;
        let mut arguments: Vec<*mut c_void> = words.iter().map(|word| (&raw const *word).cast_mut().cast()).collect();
        let Shape { grid, threads } = shape;
        let mut early = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = CUlaunchConfig {
            gridDimX: grid.0,
            gridDimY: grid.1,
            gridDimZ: grid.2,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut early,
            numAttrs: u32::from(self.starts_early),
        };
        // SAFETY: the caller's. Kernels wait for the one before them themselves where they may start early.
        let launched = unsafe {
            cuLaunchKernelEx(&raw const config, function.cu_function(), arguments.as_mut_ptr(), std::ptr::null_mut())
        };
        launched.result().map_err(failed("launching a kernel"))
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
