//! A card, its memory, and steps recorded there.

use std::sync::{Arc, Mutex, PoisonError};

use super::buffer::Buffer;
use super::driver::{Driver, DriverError, Memory, Recording};
use super::format::Element;

/// Why the device did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// The driver or cuBLAS.
    #[error("CUDA: {0}")]
    Driver(#[from] DriverError),
    /// A buffer is smaller than what would be done with it.
    #[error("{what}: {found} are there, but {needed} are needed")]
    Size {
        /// Which buffer.
        what: &'static str,
        /// Its values.
        found: usize,
        /// The least that would do.
        needed: usize,
    },
    /// A shape that no kernel serves.
    #[error("{what} of {found} has no kernel; {served} has")]
    Shape {
        /// What has the shape.
        what: &'static str,
        /// The size found.
        found: usize,
        /// The sizes served.
        served: &'static str,
    },
    /// A value of a table is out of its range.
    #[error("{what} {found} is not below {limit}")]
    Range {
        /// What.
        what: &'static str,
        /// The value.
        found: usize,
        /// The first that would be too great.
        limit: usize,
    },
}

/// `Err` where a buffer is too small.
pub(super) fn at_least(what: &'static str, found: usize, needed: usize) -> Result<(), CudaError> {
    if found < needed { Err(CudaError::Size { what, found, needed }) } else { Ok(()) }
}

/// Memory that a recorded step uses.
type Kept = Vec<Arc<Memory>>;

/// A card.
pub struct Device {
    pub(super) driver: Driver,
    /// Set while a step is recorded.
    kept: Mutex<Option<Kept>>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Device").field("name", &self.name().ok()).finish_non_exhaustive()
    }
}

/// A recorded step: hundreds of launches at the cost of one. It reads and writes the buffers that it was recorded with,
/// whatever they hold by then, and keeps them alive.
pub struct Graph {
    recording: Recording,
    _kept: Kept,
}

impl Graph {
    /// Puts the step into the device's stream.
    ///
    /// # Errors
    /// The driver's.
    pub fn replay(&mut self) -> Result<(), CudaError> {
        Ok(self.recording.replay()?)
    }
}

impl Device {
    /// Opens a card and loads the kernels.
    ///
    /// # Errors
    /// [`CudaError`] where there is no such card, or no driver.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        Ok(Self { driver: Driver::open(ordinal)?, kept: Mutex::new(None) })
    }

    /// The card's name.
    ///
    /// # Errors
    /// The driver's.
    pub fn name(&self) -> Result<String, CudaError> {
        Ok(self.driver.name()?)
    }

    /// Bytes of the card: free, and all.
    ///
    /// # Errors
    /// The driver's.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        Ok(self.driver.memory()?)
    }

    /// `len` zeros.
    ///
    /// # Errors
    /// The driver's, where the card has no room.
    pub fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>, CudaError> {
        // The driver takes no memory of no length.
        let memory = self.driver.zeros((len * size_of::<T>()).max(16))?;
        Ok(Buffer::new(memory, len))
    }

    /// Values of the host as a buffer.
    ///
    /// # Errors
    /// The driver's, where the card has no room.
    pub fn buffer<T: Element>(&self, values: &[T]) -> Result<Buffer<T>, CudaError> {
        let buffer = self.zeros(values.len())?;
        self.upload(values, &buffer)?;
        Ok(buffer)
    }

    /// Values of the host to the front of a buffer.
    ///
    /// # Errors
    /// [`CudaError::Size`] where the buffer is shorter, or the driver's.
    pub fn upload<T: Element>(&self, values: &[T], to: &Buffer<T>) -> Result<(), CudaError> {
        at_least("an upload's target", to.len(), values.len())?;
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: elements are plain numbers without padding.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        // SAFETY: the target is at least as long.
        Ok(unsafe { self.driver.upload(bytes, to.address()) }?)
    }

    /// The front of a buffer to the host; waits for all work before it.
    ///
    /// # Errors
    /// [`CudaError::Size`] where the buffer is shorter, or the driver's.
    pub fn download<T: Element>(&self, from: &Buffer<T>, values: &mut [T]) -> Result<(), CudaError> {
        at_least("a download's source", from.len(), values.len())?;
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: elements are plain numbers, of which every pattern of bits is one.
        let bytes = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) };
        // SAFETY: the source is at least as long.
        Ok(unsafe { self.driver.download(from.address(), bytes) }?)
    }

    /// All of a buffer; waits for all work before it.
    ///
    /// # Errors
    /// The driver's.
    pub fn values<T: Element>(&self, from: &Buffer<T>) -> Result<Vec<T>, CudaError> {
        let mut values = vec![T::default(); from.len()];
        self.download(from, &mut values)?;
        Ok(values)
    }

    /// One buffer's values to the front of another.
    ///
    /// # Errors
    /// [`CudaError::Size`] where the target is shorter, or the driver's.
    pub fn copy<T: Element>(&self, from: &Buffer<T>, to: &Buffer<T>) -> Result<(), CudaError> {
        at_least("a copy's target", to.len(), from.len())?;
        self.keep(from);
        self.keep(to);
        // SAFETY: both are long enough.
        Ok(unsafe { self.driver.copy(from.address(), to.address(), from.len() * size_of::<T>()) }?)
    }

    /// Waits until all work is done.
    ///
    /// # Errors
    /// Whatever went wrong in it.
    pub fn wait(&self) -> Result<(), CudaError> {
        Ok(self.driver.wait()?)
    }

    /// Seconds that the device takes for some work, by its own clock.
    ///
    /// # Errors
    /// The work's, or the driver's.
    pub fn time(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<f64, CudaError> {
        let start = self.driver.event()?;
        work()?;
        let end = self.driver.event()?;
        Ok(self.driver.seconds(&start, &end)?)
    }

    /// Records what `step` launches, without running it. Nothing may be allocated, uploaded or waited for in it, and its
    /// kernels must have run before: loading one is not allowed while recording.
    ///
    /// # Errors
    /// The step's, or the driver's.
    pub fn record(&self, step: impl FnOnce() -> Result<(), CudaError>) -> Result<Graph, CudaError> {
        self.driver.begin_recording()?;
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(Kept::new());
        let done = step();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        // Also after a fault: the stream must not stay in recording.
        let recording = self.driver.end_recording();
        done?;
        Ok(Graph { recording: recording?, _kept: kept })
    }

    /// Keeps a buffer alive with the step that is being recorded, if one is.
    pub(super) fn keep<T: Element>(&self, buffer: &Buffer<T>) {
        if let Some(kept) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            kept.push(buffer.memory());
        }
    }
}
