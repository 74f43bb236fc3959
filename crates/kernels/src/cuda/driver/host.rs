//! The host instead of a GPU: kernels compiled from the same source, whose threads run one after the other, and products
//! by plain loops. Slow, and only for tests.

use std::ffi::{CString, c_char, c_int};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use half::{bf16, f16};

use super::{DriverError, Gemm, LaunchShape};
use crate::cuda::format::{DataType, Format};

/// Bytes of memory that the driver reports: enough for tests.
const MEMORY: usize = 4 << 30;

unsafe extern "C" {
    /// Runs a kernel; returns 0 if there is none of this name. Defined in `tests/cuda_on_host/kernels.cpp`.
    fn kernels_on_host_launch(name: *const c_char, grid: *const u32, threads: u32, words: *const u64) -> c_int;
}

/// All kernels share one set of fibers.
static FIBERS: Mutex<()> = Mutex::new(());

/// A launched operation.
#[derive(Debug, Clone)]
enum Call {
    Kernel(CString, LaunchShape, Vec<u64>),
    Gemm(Gemm),
    Copy(u64, u64, usize),
}

/// The host as a device.
#[derive(Default)]
pub(in crate::cuda) struct Driver {
    /// `Some` while a step is being recorded.
    recorded: Mutex<Option<Vec<Call>>>,
}

/// An allocation with the alignment of device memory.
#[derive(Debug)]
pub(in crate::cuda) struct Memory(Vec<u128>);

impl Memory {
    pub(in crate::cuda) fn address(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }
}

/// An allocation that stands in for pinned memory.
#[derive(Debug)]
pub(in crate::cuda) struct Pinned {
    words: Vec<u128>,
    len: usize,
}

impl Pinned {
    pub(in crate::cuda) fn bytes(&self) -> &[u8] {
        // SAFETY: the words hold at least `len` bytes, and every bit pattern is valid.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.len) }
    }

    pub(in crate::cuda) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.len) }
    }
}

/// An event: the time at which it was recorded.
#[derive(Debug)]
pub(in crate::cuda) struct Event(Instant);

impl Event {
    pub(in crate::cuda) fn wait(&self) -> Result<(), DriverError> {
        Ok(())
    }
}

/// A recorded step.
pub(in crate::cuda) struct Recording(Vec<Call>);

impl Recording {
    pub(in crate::cuda) fn replay(&mut self) -> Result<(), DriverError> {
        // SAFETY: the calls were sound when recorded; their buffers are kept alive, and tables are checked when set.
        self.0.iter().try_for_each(|call| unsafe { run(call) })
    }
}

impl Driver {
    pub(in crate::cuda) fn open(_: usize) -> Result<Self, DriverError> {
        Ok(Self::default())
    }

    pub(in crate::cuda) fn name(&self) -> Result<String, DriverError> {
        Ok("the host, instead of a GPU".into())
    }

    pub(in crate::cuda) fn memory(&self) -> Result<(usize, usize), DriverError> {
        Ok((MEMORY, MEMORY))
    }

    pub(in crate::cuda) fn zeros(&self, bytes: usize) -> Result<Memory, DriverError> {
        Ok(Memory(vec![0; bytes.div_ceil(16)]))
    }

    pub(in crate::cuda) fn pinned(&self, len: usize) -> Result<Pinned, DriverError> {
        Ok(Pinned { words: vec![0; len.div_ceil(16)], len })
    }

    /// # Safety
    /// The target is at least as long as `bytes`.
    pub(in crate::cuda) unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<(), DriverError> {
        // SAFETY: guaranteed by the caller.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer(to), bytes.len()) };
        Ok(())
    }

    /// # Safety
    /// The source is at least as long as `bytes`.
    pub(in crate::cuda) unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), DriverError> {
        // SAFETY: guaranteed by the caller.
        unsafe { std::ptr::copy_nonoverlapping(pointer(from), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// # Safety
    /// Both ranges are valid for `bytes` bytes.
    pub(in crate::cuda) unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DriverError> {
        // SAFETY: guaranteed by the caller.
        unsafe { self.run_or_record(Call::Copy(from, to, bytes)) }
    }

    pub(in crate::cuda) fn wait(&self) -> Result<(), DriverError> {
        Ok(())
    }

    pub(in crate::cuda) fn event(&self) -> Result<Event, DriverError> {
        Ok(Event(Instant::now()))
    }

    pub(in crate::cuda) fn seconds(&self, from: &Event, to: &Event) -> Result<f64, DriverError> {
        Ok((to.0 - from.0).as_secs_f64())
    }

    /// # Safety
    /// The words are the kernel's arguments, each in the first bytes of its word, and the kernel accesses only valid memory.
    pub(in crate::cuda) unsafe fn launch(
        &self,
        kernel: &str,
        shape: LaunchShape,
        words: &[u64],
    ) -> Result<(), DriverError> {
        let invalid_name = |_| DriverError { call: "looking up a kernel", reason: kernel.to_owned() };
        let name = CString::new(kernel).map_err(invalid_name)?;
        // SAFETY: guaranteed by the caller.
        unsafe { self.run_or_record(Call::Kernel(name, shape, words.to_vec())) }
    }

    /// # Safety
    /// The three matrices are in valid memory.
    pub(in crate::cuda) unsafe fn gemm(&self, gemm: &Gemm) -> Result<(), DriverError> {
        // SAFETY: guaranteed by the caller.
        unsafe { self.run_or_record(Call::Gemm(*gemm)) }
    }

    pub(in crate::cuda) fn begin_recording(&self) -> Result<(), DriverError> {
        *self.recorded() = Some(Vec::new());
        Ok(())
    }

    pub(in crate::cuda) fn end_recording(&self) -> Result<Recording, DriverError> {
        Ok(Recording(self.recorded().take().unwrap_or_default()))
    }

    fn recorded(&self) -> std::sync::MutexGuard<'_, Option<Vec<Call>>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Safety
    /// The call's own requirements hold.
    unsafe fn run_or_record(&self, call: Call) -> Result<(), DriverError> {
        if let Some(calls) = self.recorded().as_mut() {
            calls.push(call);
            return Ok(());
        }
        // SAFETY: guaranteed by the caller.
        unsafe { run(&call) }
    }
}

fn pointer<T>(address: u64) -> *mut T {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

/// # Safety
/// The call's own requirements hold.
unsafe fn run(call: &Call) -> Result<(), DriverError> {
    match call {
        Call::Kernel(name, LaunchShape { grid: (x, y, z), threads }, words) => {
            let _guard = FIBERS.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: guaranteed by the caller; the grid has three numbers.
            let found =
                unsafe { kernels_on_host_launch(name.as_ptr(), [*x, *y, *z].as_ptr(), *threads, words.as_ptr()) };
            if found == 0 {
                let reason = name.to_string_lossy().into_owned();
                return Err(DriverError { call: "looking up a kernel", reason });
            }
        }
        // SAFETY: guaranteed by the caller; the ranges may overlap.
        Call::Copy(from, to, bytes) => unsafe { std::ptr::copy(pointer::<u8>(*from), pointer(*to), *bytes) },
        // SAFETY: guaranteed by the caller.
        Call::Gemm(gemm) => unsafe {
            match (gemm.data_type, gemm.result_type) {
                (DataType::F32, _) => multiply::<f32, f32>(gemm),
                (DataType::F16, DataType::F32) => multiply::<f16, f32>(gemm),
                (DataType::F16, _) => multiply::<f16, f16>(gemm),
                (DataType::Bf16, DataType::F32) => multiply::<bf16, f32>(gemm),
                (DataType::Bf16, _) => multiply::<bf16, bf16>(gemm),
            }
        },
    }
    Ok(())
}

/// # Safety
/// The three matrices are in valid memory.
unsafe fn multiply<T: Format, O: Format>(gemm: &Gemm) {
    let Gemm { outputs, rows, inner, stride, .. } = *gemm;
    let [outputs, rows, inner, stride] = [outputs, rows, inner, stride].map(|size| size as usize);
    // SAFETY: guaranteed by the caller.
    let read = |address, len| unsafe { std::slice::from_raw_parts(pointer::<T>(address), len) };
    let widen = |values: &[T]| -> Vec<f32> { values.iter().map(|value| value.to_f32()).collect() };
    let (weights, x) = (widen(read(gemm.weights, outputs * inner)), widen(read(gemm.x, rows * inner)));
    for (r, x) in x.chunks_exact(inner).enumerate() {
        for (o, weights) in weights.chunks_exact(inner).enumerate() {
            let lanes = x.chunks_exact(8).zip(weights.chunks_exact(8)).fold([0f32; 8], |mut sums, (x, w)| {
                sums.iter_mut().zip(x.iter().zip(w)).for_each(|(sum, (x, w))| *sum += x * w);
                sums
            });
            // SAFETY: guaranteed by the caller.
            unsafe { *pointer::<O>(gemm.y).add(r * stride + o) = O::from_f32(lanes.iter().sum()) };
        }
    }
}
