//! A memory budget for pictures, in bytes. Callers wait until enough of it is free.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum bytes for each pixel of an ordinary picture (8 bits per sample, one scan) while it is decoded: four with
/// alpha, three without, and three for a rotated copy.
pub const BYTES_PER_PIXEL: u64 = 10;
/// A semaphore takes at most 2³² permits in one request; with this unit that is 4 TiB.
const UNIT: u64 = 1024;

/// A limit on the bytes in use. Clones share it.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    semaphore: Arc<Semaphore>,
    units: u32,
}

/// Bytes reserved from the budget; released when dropped.
#[derive(Debug)]
pub struct Reservation(Option<OwnedSemaphorePermit>);

impl ByteBudget {
    /// A budget of this many bytes.
    pub fn new(bytes: u64) -> Self {
        let units = units(bytes).max(1);
        Self { semaphore: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Reserves this many bytes, or the whole budget if that is less. Waits until they are free, first come, first
    /// served.
    pub async fn reserve(&self, bytes: u64) -> Reservation {
        let units = units(bytes).min(self.units);
        // The semaphore is never closed.
        Reservation(Arc::clone(&self.semaphore).acquire_many_owned(units).await.ok())
    }

    /// Bytes that are reserved.
    pub fn used(&self) -> u64 {
        (u64::from(self.units) * UNIT).saturating_sub(self.free())
    }

    /// Bytes that are not reserved.
    pub fn free(&self) -> u64 {
        self.semaphore.available_permits() as u64 * UNIT
    }
}

impl Reservation {
    /// Releases all but this many bytes.
    pub fn shrink_to(&mut self, bytes: u64) {
        if let Some(permit) = &mut self.0 {
            let surplus = permit.num_permits().saturating_sub(units(bytes) as usize);
            drop(permit.split(surplus));
        }
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(u32::MAX >> 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn who_asks_for_more_than_is_free_waits_until_enough_is_given_back() {
        let budget = ByteBudget::new(10 * UNIT);
        let mut first = budget.reserve(8 * UNIT).now_or_never().unwrap();
        assert!(budget.reserve(4 * UNIT).now_or_never().is_none());
        first.shrink_to(6 * UNIT);
        let second = budget.reserve(4 * UNIT).now_or_never().unwrap();
        assert_eq!(budget.free(), 0);
        drop((first, second));
        assert_eq!(budget.free(), 10 * UNIT);
    }

    #[test]
    fn more_than_there_ever_is_takes_all_there_is() {
        let budget = ByteBudget::new(2 * UNIT);
        let all = budget.reserve(u64::MAX).now_or_never().unwrap();
        assert_eq!(budget.free(), 0);
        drop(all);
        assert_eq!(budget.free(), 2 * UNIT);
    }
}
