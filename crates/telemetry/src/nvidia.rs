//! The state of an NVIDIA GPU, by its driver's management library (NVML), which is loaded at run time: a machine without
//! it has no such metrics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
use nvml_wrapper::error::NvmlError;

use crate::readings::GpuReading;

/// Minimum time between two queries to the driver, which take milliseconds.
const QUERY_INTERVAL: Duration = Duration::from_secs(15);

type Read = Box<dyn Fn() -> Option<GpuReading> + Send + Sync>;

/// A GPU whose state can be read. Clones share what was read last.
#[derive(Clone)]
pub struct NvidiaGpu(Arc<Cached<Read>>);

impl NvidiaGpu {
    /// The GPU with this PCI bus id, for example `0000:65:00.0`. CUDA's device numbers cannot be used: they depend on
    /// `CUDA_VISIBLE_DEVICES`.
    ///
    /// # Errors
    /// One sentence, if the machine has no NVML or no such GPU.
    pub fn open(pci_bus_id: &str) -> Result<Self, String> {
        let unreadable = |error: NvmlError| format!("the GPU {pci_bus_id} cannot be read with NVML: {error}");
        let nvml = Nvml::init().map_err(unreadable)?;
        read(&nvml, pci_bus_id).map_err(unreadable)?;
        let pci_bus_id = pci_bus_id.to_owned();
        Ok(Self(Arc::new(Cached::new(QUERY_INTERVAL, Box::new(move || read(&nvml, &pci_bus_id).ok())))))
    }

    /// Its state, at most 15 s old; empty if the driver does not answer. For
    /// [`Instruments::observe_gpus`](crate::Instruments::observe_gpus).
    pub fn reading(&self) -> Vec<GpuReading> {
        self.0.get(Instant::now()).into_iter().collect()
    }
}

fn read(nvml: &Nvml, pci_bus_id: &str) -> Result<GpuReading, NvmlError> {
    let device = nvml.device_by_pci_bus_id(pci_bus_id)?;
    // Each of these is missing on some GPUs.
    let errors = |kind| device.total_ecc_errors(kind, EccCounter::Volatile).ok();
    Ok(GpuReading {
        number: device.index()?,
        memory_used: device.memory_info().ok().map(|memory| memory.used),
        corrected_errors: errors(MemoryError::Corrected),
        uncorrected_errors: errors(MemoryError::Uncorrected),
        energy_joules: device.total_energy_consumption().ok().map(|millijoules| millijoules as f64 / 1000.0),
    })
}

/// A function whose last result is kept for some time.
struct Cached<F> {
    keep: Duration,
    read: F,
    last: Mutex<Option<(Instant, Option<GpuReading>)>>,
}

impl<F: Fn() -> Option<GpuReading>> Cached<F> {
    fn new(keep: Duration, read: F) -> Self {
        Self { keep, read, last: Mutex::new(None) }
    }

    fn get(&self, now: Instant) -> Option<GpuReading> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match *last {
            Some((at, reading)) if now.saturating_duration_since(at) < self.keep => reading,
            _ => {
                let reading = (self.read)();
                *last = Some((now, reading));
                reading
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn the_driver_is_queried_every_15_s_at_most() {
        let queries = AtomicU32::new(0);
        let cached = Cached::new(QUERY_INTERVAL, || {
            Some(GpuReading { number: queries.fetch_add(1, Ordering::Relaxed), ..Default::default() })
        });
        let start = Instant::now();
        let number_at = |seconds| cached.get(start + Duration::from_secs(seconds)).unwrap().number;
        assert_eq!([0, 1, 14, 15, 16, 29, 30].map(number_at), [0, 0, 0, 1, 1, 1, 2]);
    }

    #[test]
    fn a_gpu_that_is_not_there_is_named() {
        let error = NvidiaGpu::open("ffff:ff:1f.7").err().unwrap();
        assert!(error.starts_with("the GPU ffff:ff:1f.7 cannot be read"), "{error}");
    }
}
