//! The device: its memory, copies, timing, and recorded steps.

use std::sync::{Arc, Mutex, PoisonError};

use super::buffer::Buffer;
use super::driver::{Driver, DriverError, Memory, Recording};
use super::format::Element;

/// Why an operation of the device failed.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// The CUDA driver or cuBLAS failed.
    #[error("CUDA: {0}")]
    Driver(#[from] DriverError),
    /// A buffer is too small.
    #[error("{what} has {found} values, but {needed} are needed")]
    Size {
        /// Which buffer.
        what: &'static str,
        /// Its number of values.
        found: usize,
        /// The number of values needed.
        needed: usize,
    },
    /// A shape that no kernel supports.
    #[error("no kernel supports {what} of {found}, only {supported}")]
    Shape {
        /// What has the shape.
        what: &'static str,
        /// The size found.
        found: usize,
        /// The sizes supported.
        supported: &'static str,
    },
    /// A value is out of range.
    #[error("{what} is {found}, but must be below {limit}")]
    Range {
        /// Which value.
        what: &'static str,
        /// The value.
        found: usize,
        /// The smallest value that is too large.
        limit: usize,
    },
}

/// Fails if a buffer of `found` values is shorter than `needed`.
pub(super) fn check_len(what: &'static str, found: usize, needed: usize) -> Result<(), CudaError> {
    if found < needed { Err(CudaError::Size { what, found, needed }) } else { Ok(()) }
}

/// Memory that a recorded step uses.
type HeldMemory = Vec<Arc<Memory>>;

/// A GPU, with one stream in which all of its work is done in order.
pub struct Device {
    pub(super) driver: Driver,
    /// `Some` while a step is being recorded.
    held: Mutex<Option<HeldMemory>>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Device").field("name", &self.name().ok()).finish_non_exhaustive()
    }
}

/// A recorded step (a CUDA graph): hundreds of launches at the cost of one. It reads and writes the buffers that it was
/// recorded with, with their contents at the time of the replay, and keeps them alive.
pub struct Graph {
    recording: Recording,
    _held: HeldMemory,
}

impl Graph {
    /// Queues the step in the device's stream.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the launch fails.
    pub fn replay(&mut self) -> Result<(), CudaError> {
        Ok(self.recording.replay()?)
    }
}

impl Device {
    /// Opens the GPU with this ordinal and loads the kernels.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if there is no such GPU or no driver.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        Ok(Self { driver: Driver::open(ordinal)?, held: Mutex::new(None) })
    }

    /// The GPU's name.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the query fails.
    pub fn name(&self) -> Result<String, CudaError> {
        Ok(self.driver.name()?)
    }

    /// Free and total bytes of the GPU's memory.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the query fails.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        Ok(self.driver.memory()?)
    }

    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the GPU is out of memory.
    pub fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>, CudaError> {
        // The driver rejects allocations of zero bytes.
        let memory = self.driver.zeros((len * size_of::<T>()).max(16))?;
        Ok(Buffer::new(memory, len))
    }

    /// A buffer with these values.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the GPU is out of memory or the upload fails.
    pub fn buffer<T: Element>(&self, values: &[T]) -> Result<Buffer<T>, CudaError> {
        let buffer = self.zeros(values.len())?;
        self.upload(values, &buffer)?;
        Ok(buffer)
    }

    /// Copies values from the host to the start of a buffer.
    ///
    /// # Errors
    /// [`CudaError::Size`] if the buffer is shorter; [`CudaError::Driver`] if the copy fails.
    pub fn upload<T: Element>(&self, values: &[T], to: &Buffer<T>) -> Result<(), CudaError> {
        check_len("the target of an upload", to.len(), values.len())?;
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: elements are plain numbers without padding.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        // SAFETY: the target is at least as long.
        Ok(unsafe { self.driver.upload(bytes, to.address()) }?)
    }

    /// Copies the first values of a buffer to the host, after all earlier work.
    ///
    /// # Errors
    /// [`CudaError::Size`] if the buffer is shorter; [`CudaError::Driver`] if the copy or earlier work fails.
    pub fn download<T: Element>(&self, from: &Buffer<T>, values: &mut [T]) -> Result<(), CudaError> {
        check_len("the source of a download", from.len(), values.len())?;
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: elements are plain numbers, for which every bit pattern is valid.
        let bytes = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) };
        // SAFETY: the source is at least as long.
        Ok(unsafe { self.driver.download(from.address(), bytes) }?)
    }

    /// Copies all values of a buffer to the host, after all earlier work.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the copy or earlier work fails.
    pub fn values<T: Element>(&self, from: &Buffer<T>) -> Result<Vec<T>, CudaError> {
        let mut values = vec![T::default(); from.len()];
        self.download(from, &mut values)?;
        Ok(values)
    }

    /// Copies the values of one buffer to the start of another.
    ///
    /// # Errors
    /// [`CudaError::Size`] if the target is shorter; [`CudaError::Driver`] if the copy fails.
    pub fn copy<T: Element>(&self, from: &Buffer<T>, to: &Buffer<T>) -> Result<(), CudaError> {
        check_len("the target of a copy", to.len(), from.len())?;
        self.keep_alive(from);
        self.keep_alive(to);
        // SAFETY: both are long enough.
        Ok(unsafe { self.driver.copy(from.address(), to.address(), from.len() * size_of::<T>()) }?)
    }

    /// Waits until all work is done.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if some of the work failed.
    pub fn wait(&self) -> Result<(), CudaError> {
        Ok(self.driver.wait()?)
    }

    /// Seconds that the device takes for `work`, by its own clock.
    ///
    /// # Errors
    /// Those of `work`, or [`CudaError::Driver`] if the device fails.
    pub fn time(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<f64, CudaError> {
        let start = self.driver.event()?;
        work()?;
        let end = self.driver.event()?;
        Ok(self.driver.seconds(&start, &end)?)
    }

    /// Records the launches of `step` without running them. `step` must not allocate, upload or wait, and its kernels must
    /// have run before, because loading a kernel is not allowed while recording.
    ///
    /// # Errors
    /// Those of `step`, or [`CudaError::Driver`] if recording fails.
    pub fn record(&self, step: impl FnOnce() -> Result<(), CudaError>) -> Result<Graph, CudaError> {
        self.driver.begin_recording()?;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(HeldMemory::new());
        let result = step();
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        // Also if the step failed: the stream must not stay in recording mode.
        let recording = self.driver.end_recording();
        result?;
        Ok(Graph { recording: recording?, _held: held })
    }

    /// Keeps a buffer alive with the step that is being recorded, if one is.
    pub(super) fn keep_alive<T: Element>(&self, buffer: &Buffer<T>) {
        if let Some(held) = self.held.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            held.push(buffer.memory());
        }
    }
}
