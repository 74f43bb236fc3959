//! The CUDA driver and cuBLAS, through cudarc.

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

use super::{DriverError, Gemm, LaunchShape};
use crate::cuda::format::DataType;

/// The compiled kernels.
static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// Bytes of cuBLAS's workspace, as its manual recommends for Hopper. We provide it because cuBLAS must not allocate while
/// a step is being recorded.
const WORKSPACE: usize = 32 << 20;

/// The major compute capability from which programmatic dependent launch is supported: Hopper.
const DEPENDENT_LAUNCH_CAPABILITY: i32 = 9;

/// Converts an error of the call into a [`DriverError`].
fn failed<E: std::fmt::Debug>(call: &'static str) -> impl Fn(E) -> DriverError {
    move |error| DriverError { call, reason: format!("{error:?}") }
}

/// The stream of a GPU, and what is loaded on it.
pub(in crate::cuda) struct Driver {
    stream: Arc<CudaStream>,
    blas: CudaBlas,
    module: Arc<CudaModule>,
    functions: Mutex<HashMap<String, CudaFunction>>,
    /// Whether a kernel can be launched while the previous one still runs.
    dependent_launch: bool,
    _workspace: CudaSlice<u8>,
}

/// An allocation in device memory.
#[derive(Debug)]
pub(in crate::cuda) struct Memory(CudaSlice<u8>);

impl Memory {
    pub(in crate::cuda) fn address(&self) -> u64 {
        // Event tracking is disabled, so the guard does nothing.
        let (address, _guard) = self.0.device_ptr(self.0.stream());
        address
    }
}

/// An allocation in pinned host memory.
#[derive(Debug)]
pub(in crate::cuda) struct Pinned {
    start: NonNull<u8>,
    len: usize,
    stream: Arc<CudaStream>,
}

// SAFETY: it owns its memory, which is not tied to a thread.
unsafe impl Send for Pinned {}
// SAFETY: shared references only give read access.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(in crate::cuda) fn bytes(&self) -> &[u8] {
        // SAFETY: the allocation has this length, is initialized, and lives as long as this value.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(in crate::cuda) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // An error cannot be reported here; the memory is then freed with the process.
        let _ = self.stream.context().bind_to_thread();
        // SAFETY: the driver allocated it, and nothing refers to it any more.
        let _ = unsafe { result::free_host(self.start.as_ptr().cast()) };
    }
}

/// An event in the stream.
#[derive(Debug)]
pub(in crate::cuda) struct Event(CudaEvent);

impl Event {
    /// Waits until the stream has reached the event.
    pub(in crate::cuda) fn wait(&self) -> Result<(), DriverError> {
        self.0.synchronize().map_err(failed("waiting for an event"))
    }
}

/// A recorded step.
pub(in crate::cuda) struct Recording(CudaGraph);

// SAFETY: a graph must not be used by two threads at once, which `&mut self` of its only method ensures; the driver does
// not tie it to the thread that recorded it.
unsafe impl Send for Recording {}

impl Recording {
    pub(in crate::cuda) fn replay(&mut self) -> Result<(), DriverError> {
        self.0.launch().map_err(failed("replaying a step"))
    }
}

impl Driver {
    pub(in crate::cuda) fn open(ordinal: usize) -> Result<Self, DriverError> {
        let context = CudaContext::new(ordinal).map_err(failed("opening the GPU"))?;
        // SAFETY: all memory of this context is allocated, used and freed on the one stream below.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed("creating a stream"))?;
        let module = context.load_module(Ptx::from_binary(KERNELS.to_vec())).map_err(failed("loading the kernels"))?;
        let blas = CudaBlas::new(Arc::clone(&stream)).map_err(failed("opening cuBLAS"))?;
        let workspace = stream.alloc_zeros::<u8>(WORKSPACE).map_err(failed("allocating cuBLAS's workspace"))?;
        let address = {
            let (address, _guard) = workspace.device_ptr(&stream);
            address
        };
        // SAFETY: the workspace has this length and lives as long as the handle: both belong to this value.
        unsafe {
            let set = blas_sys::cublasSetWorkspace_v2(*blas.handle(), address as *mut _, WORKSPACE);
            set.result().map_err(failed("setting cuBLAS's workspace"))?;
            // Sums of a product stay in f32 even if it is split over its inner dimension. TF32 is off by default.
            let set = blas_sys::cublasSetMathMode(*blas.handle(), CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
            set.result().map_err(failed("setting cuBLAS's math mode"))?;
        }
        let (major, _) = stream.context().compute_capability().map_err(failed("querying the compute capability"))?;
        let dependent_launch = major >= DEPENDENT_LAUNCH_CAPABILITY;
        Ok(Self { stream, blas, module, functions: Mutex::default(), dependent_launch, _workspace: workspace })
    }

    pub(in crate::cuda) fn name(&self) -> Result<String, DriverError> {
        self.stream.context().name().map_err(failed("querying the GPU's name"))
    }

    /// Free and total bytes.
    pub(in crate::cuda) fn memory(&self) -> Result<(usize, usize), DriverError> {
        self.stream.context().mem_get_info().map_err(failed("querying free memory"))
    }

    pub(in crate::cuda) fn zeros(&self, bytes: usize) -> Result<Memory, DriverError> {
        self.stream.alloc_zeros(bytes).map(Memory).map_err(failed("allocating device memory"))
    }

    pub(in crate::cuda) fn pinned(&self, len: usize) -> Result<Pinned, DriverError> {
        self.bind()?;
        // SAFETY: the memory is zeroed below, before it is read.
        let start = unsafe { result::malloc_host(len.max(1), 0) }.map_err(failed("allocating pinned memory"))?;
        let start = NonNull::new(start.cast::<u8>())
            .ok_or(DriverError { call: "allocating pinned memory", reason: "the driver returned null".into() })?;
        // SAFETY: the allocation has this length.
        unsafe { start.as_ptr().write_bytes(0, len) };
        Ok(Pinned { start, len, stream: Arc::clone(&self.stream) })
    }

    /// # Safety
    /// The target is at least as long as `bytes`. If `bytes` is pinned, it must not change until the copy is done.
    pub(in crate::cuda) unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<(), DriverError> {
        self.bind()?;
        // SAFETY: guaranteed by the caller. The driver has read pageable host memory when it returns.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) }.map_err(failed("copying to the GPU"))
    }

    /// # Safety
    /// The source is at least as long as `bytes`.
    pub(in crate::cuda) unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), DriverError> {
        self.bind()?;
        // SAFETY: guaranteed by the caller; nothing accesses `bytes` before the wait below.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()) }
            .map_err(failed("copying from the GPU"))?;
        self.wait()
    }

    /// # Safety
    /// Both ranges are valid for `bytes` bytes.
    pub(in crate::cuda) unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DriverError> {
        self.bind()?;
        // SAFETY: guaranteed by the caller.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(failed("copying within the GPU"))
    }

    pub(in crate::cuda) fn wait(&self) -> Result<(), DriverError> {
        self.stream.synchronize().map_err(failed("waiting for the GPU"))
    }

    pub(in crate::cuda) fn event(&self) -> Result<Event, DriverError> {
        self.stream.record_event(Some(CU_EVENT_DEFAULT)).map(Event).map_err(failed("recording an event"))
    }

    /// Seconds between two events. Waits for the second.
    pub(in crate::cuda) fn seconds(&self, from: &Event, to: &Event) -> Result<f64, DriverError> {
        to.wait()?;
        from.0.elapsed_ms(&to.0).map(|ms| f64::from(ms) / 1e3).map_err(failed("querying the time between events"))
    }

    /// # Safety
    /// The words are the kernel's arguments, each in the first bytes of its word, and the kernel accesses only valid memory.
    pub(in crate::cuda) unsafe fn launch(
        &self,
        kernel: &str,
        shape: LaunchShape,
        words: &[u64],
    ) -> Result<(), DriverError> {
        let function = self.function(kernel)?;
        self.bind()?;
        let mut arguments: Vec<*mut c_void> = words.iter().map(|word| (&raw const *word).cast_mut().cast()).collect();
        let LaunchShape { grid, threads } = shape;
        let mut dependent = CUlaunchAttribute {
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
            attrs: &raw mut dependent,
            numAttrs: u32::from(self.dependent_launch),
        };
        // SAFETY: guaranteed by the caller. A kernel that may start early waits for the previous one itself.
        let launched = unsafe {
            cuLaunchKernelEx(&raw const config, function.cu_function(), arguments.as_mut_ptr(), std::ptr::null_mut())
        };
        launched.result().map_err(failed("launching a kernel"))
    }

    /// # Safety
    /// The three matrices are in valid device memory.
    pub(in crate::cuda) unsafe fn gemm(&self, gemm: &Gemm) -> Result<(), DriverError> {
        let Gemm { weights, x, y, data_type, result_type, outputs, rows, inner, stride } = *gemm;
        self.bind()?;
        let (one, zero) = (1f32, 0f32);
        // cuBLAS is column-major: yᵀ [outputs, rows] = W xᵀ, with W and x as they are stored.
        // SAFETY: guaranteed by the caller.
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
                cuda_data_type(data_type),
                inner,
                x as *const _,
                cuda_data_type(data_type),
                inner,
                (&raw const zero).cast(),
                y as *mut _,
                cuda_data_type(result_type),
                stride,
                CUBLAS_COMPUTE_32F,
                CUBLAS_GEMM_DFALT,
            )
        }
        .map_err(failed("multiplying matrices"))
    }

    pub(in crate::cuda) fn begin_recording(&self) -> Result<(), DriverError> {
        // Relaxed: calls of other threads on other streams do not affect this recording.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream.begin_capture(mode).map_err(failed("beginning to record a step"))
    }

    pub(in crate::cuda) fn end_recording(&self) -> Result<Recording, DriverError> {
        let empty = || DriverError { call: "recording a step", reason: "the recorded graph is empty".into() };
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0)).map_err(failed("recording a step"))?;
        graph.map(Recording).ok_or_else(empty)
    }

    fn bind(&self) -> Result<(), DriverError> {
        self.stream.context().bind_to_thread().map_err(failed("binding the GPU's context"))
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

fn cuda_data_type(data_type: DataType) -> cudaDataType {
    match data_type {
        DataType::F32 => cudaDataType::CUDA_R_32F,
        DataType::F16 => cudaDataType::CUDA_R_16F,
        DataType::Bf16 => cudaDataType::CUDA_R_16BF,
    }
}
