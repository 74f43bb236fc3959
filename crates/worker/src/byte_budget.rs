//! A budget of memory for pictures in bytes: a caller waits until enough is free.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a pixel of an ordinary picture (8 bits a sample, one scan) costs at most while it is decoded: four bytes with
/// opacity, three without, and three for a turned copy.
pub const BYTES_PER_PIXEL: u64 = 10;
/// A semaphore counts to 2³² at most in one request; in these units that is 4 TiB.
const UNIT: u64 = 1024;

/// A number of bytes that may be in use at once.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    semaphore: Arc<Semaphore>,
    units: u32,
}

/// Bytes in use; given back when dropped.
#[derive(Debug)]
pub struct Taken(Option<OwnedSemaphorePermit>);

impl ByteBudget {
    /// A budget of this many bytes.
    pub fn new(bytes: u64) -> Self {
        let units = units(bytes).max(1);
        Self { semaphore: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Waits for this many bytes; for all there are where more is asked for. First come, first served.
    pub async fn take(&self, bytes: u64) -> Taken {
        let units = units(bytes).min(self.units);
        // Fails only if the semaphore is closed, which nobody does.
        Taken(Arc::clone(&self.semaphore).acquire_many_owned(units).await.ok())
    }

    /// Bytes not in use.
    pub fn free(&self) -> u64 {
        self.semaphore.available_permits() as u64 * UNIT
    }
}

impl Taken {
    /// Gives back all but this many bytes.
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
        let mut first = budget.take(8 * UNIT).now_or_never().unwrap();
        assert!(budget.take(4 * UNIT).now_or_never().is_none());
        first.shrink_to(6 * UNIT);
        let second = budget.take(4 * UNIT).now_or_never().unwrap();
        assert_eq!(budget.free(), 0);
        drop((first, second));
        assert_eq!(budget.free(), 10 * UNIT);
    }

    #[test]
    fn more_than_there_ever_is_takes_all_there_is() {
        let budget = ByteBudget::new(2 * UNIT);
        let all = budget.take(u64::MAX).now_or_never().unwrap();
        assert_eq!(budget.free(), 0);
        drop(all);
        assert_eq!(budget.free(), 2 * UNIT);
    }
}
