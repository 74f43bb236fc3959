//! The host in a card's place: kernels from the same source, their threads one after the other; products by plain
//! loops. Slow, and only for checks.

use std::ffi::{CString, c_char, c_int};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use half::{bf16, f16};

use super::{DriverError, Product, Shape};
use crate::cuda::format::{Format, Kind};

/// Memory that the host says it has: enough for checks.
const MEMORY: usize = 4 << 30;

unsafe extern "C" {
    /// Runs a kernel; 0 where there is none of this name. In `tests/cuda_on_host/kernels.cpp`.
    fn kernels_on_host_launch(name: *const c_char, grid: *const u32, threads: u32, words: *const u64) -> c_int;
}

/// The kernels share the host's one set of fibers.
static FIBERS: Mutex<()> = Mutex::new(());

/// What was launched.
#[derive(Debug, Clone)]
enum Call {
    Kernel(CString, Shape, Vec<u64>),
    Product(Product),
    Copy(u64, u64, usize),
}

/// The host.
#[derive(Default)]
pub(in crate::cuda) struct Driver {
    recorded: Mutex<Option<Vec<Call>>>,
}

/// Bytes of the host, aligned like a card's.
#[derive(Debug)]
pub(in crate::cuda) struct Memory(Vec<u128>);

impl Memory {
    pub(in crate::cuda) fn address(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }
}

/// Bytes of the host.
#[derive(Debug)]
pub(in crate::cuda) struct Pinned {
    words: Vec<u128>,
    len: usize,
}

impl Pinned {
    pub(in crate::cuda) fn bytes(&self) -> &[u8] {
        // SAFETY: the words hold at least as many bytes, and every pattern is one.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.len) }
    }

    pub(in crate::cuda) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.len) }
    }
}

/// A moment.
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
        // SAFETY: what was recorded was sound then; its buffers are kept alive, and its tables are checked when set.
        self.0.iter().try_for_each(|call| unsafe { run(call) })
    }
}

impl Driver {
    pub(in crate::cuda) fn open(_: usize) -> Result<Self, DriverError> {
        Ok(Self::default())
    }

    pub(in crate::cuda) fn name(&self) -> Result<String, DriverError> {
        Ok("the host in a card's place".into())
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
    /// The target is as long as the bytes.
    pub(in crate::cuda) unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<(), DriverError> {
        // SAFETY: the caller's.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer(to), bytes.len()) };
        Ok(())
    }

    /// # Safety
    /// The source is as long as the bytes, and they may hold anything.
    pub(in crate::cuda) unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), DriverError> {
        // SAFETY: the caller's.
        unsafe { std::ptr::copy_nonoverlapping(pointer(from), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// # Safety
    /// Both are as long as said.
    pub(in crate::cuda) unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DriverError> {
        // SAFETY: the caller's.
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
    /// The arguments are the kernel's, each in the first bytes of its word, and it touches only memory that is there.
    pub(in crate::cuda) unsafe fn launch(&self, kernel: &str, shape: Shape, words: &[u64]) -> Result<(), DriverError> {
        let unnamed = |_| DriverError { call: "looking up a kernel", reason: kernel.to_owned() };
        let name = CString::new(kernel).map_err(unnamed)?;
        // SAFETY: the caller's.
        unsafe { self.run_or_record(Call::Kernel(name, shape, words.to_vec())) }
    }

    /// # Safety
    /// The three lie in memory that is there.
    pub(in crate::cuda) unsafe fn product(&self, product: &Product) -> Result<(), DriverError> {
        // SAFETY: the caller's.
        unsafe { self.run_or_record(Call::Product(*product)) }
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
    /// As the calls'.
    unsafe fn run_or_record(&self, call: Call) -> Result<(), DriverError> {
        if let Some(calls) = self.recorded().as_mut() {
            calls.push(call);
            return Ok(());
        }
        // SAFETY: the caller's.
        unsafe { run(&call) }
    }
}

fn pointer<T>(address: u64) -> *mut T {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

/// # Safety
/// As the calls'.
unsafe fn run(call: &Call) -> Result<(), DriverError> {
    match call {
        Call::Kernel(name, Shape { grid: (x, y, z), threads }, words) => {
            let _turn = FIBERS.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: the caller's; the grid has the three numbers that are read.
            let found =
                unsafe { kernels_on_host_launch(name.as_ptr(), [*x, *y, *z].as_ptr(), *threads, words.as_ptr()) };
            if found == 0 {
                let reason = name.to_string_lossy().into_owned();
                return Err(DriverError { call: "looking up a kernel", reason });
            }
        }
        // SAFETY: the caller's; ranges may overlap.
        Call::Copy(from, to, bytes) => unsafe { std::ptr::copy(pointer::<u8>(*from), pointer(*to), *bytes) },
        // SAFETY: the caller's.
        Call::Product(product) => unsafe {
            match (product.kind, product.result) {
                (Kind::F32, _) => multiply::<f32, f32>(product),
                (Kind::F16, Kind::F32) => multiply::<f16, f32>(product),
                (Kind::F16, _) => multiply::<f16, f16>(product),
                (Kind::Bf16, Kind::F32) => multiply::<bf16, f32>(product),
                (Kind::Bf16, _) => multiply::<bf16, bf16>(product),
            }
        },
    }
    Ok(())
}

/// # Safety
/// The three lie in memory that is there.
unsafe fn multiply<T: Format, O: Format>(product: &Product) {
    let Product { outputs, rows, inner, stride, .. } = *product;
    let [outputs, rows, inner, stride] = [outputs, rows, inner, stride].map(|size| size as usize);
    // SAFETY: the caller's.
    let read = |address, len| unsafe { std::slice::from_raw_parts(pointer::<T>(address), len) };
    let widen = |values: &[T]| -> Vec<f32> { values.iter().map(|value| value.to_f32()).collect() };
    let (weights, x) = (widen(read(product.weights, outputs * inner)), widen(read(product.x, rows * inner)));
    for (r, x) in x.chunks_exact(inner).enumerate() {
        for (o, weights) in weights.chunks_exact(inner).enumerate() {
            let lanes = x.chunks_exact(8).zip(weights.chunks_exact(8)).fold([0f32; 8], |mut sums, (x, w)| {
                sums.iter_mut().zip(x.iter().zip(w)).for_each(|(sum, (x, w))| *sum += x * w);
                sums
            });
            // SAFETY: the caller's.
            unsafe { *pointer::<O>(product.y).add(r * stride + o) = O::from_f32(lanes.iter().sum()) };
        }
    }
}
