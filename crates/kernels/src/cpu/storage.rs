//! Memory for packed weights, keys and values: zeroed lazily, aligned to a page, in huge pages if the system provides them.

use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;

use memmap2::MmapMut;

/// A type that can be read from any bytes.
///
/// # Safety
/// Every bit pattern must be a valid value, there must be no padding, and the alignment must be at most a page.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: a number.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: an array of numbers, without padding.
unsafe impl Plain for [f32; 16] {}
// SAFETY: as above.
unsafe impl Plain for [i32; 16] {}
// SAFETY: as above.
unsafe impl Plain for [u16; 32] {}
// SAFETY: as above.
unsafe impl Plain for [u8; 64] {}

/// A fixed number of `T`, contiguous from the start of a page.
#[derive(Debug)]
pub(crate) struct Storage<T> {
    map: MmapMut,
    count: usize,
    of: PhantomData<T>,
}

impl<T: Plain> Storage<T> {
    /// `count` zeros. Aborts the process if the allocation fails, like `Vec`.
    pub(crate) fn zeroed(count: usize) -> Self {
        let bytes = count.saturating_mul(size_of::<T>()).max(1);
        let Ok(map) = MmapMut::map_anon(bytes) else {
            handle_alloc_error(Layout::from_size_align(bytes, 64).unwrap_or(Layout::new::<T>()))
        };
        // With pages of 4 KB, reading all weights once is bound by address translation. This is only advice.
        #[cfg(target_os = "linux")]
        if bytes >= 1 << 20 {
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Self { map, count, of: PhantomData }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.count * size_of::<T>()
    }
}

impl<T: Plain> std::ops::Deref for Storage<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the map is aligned to a page and holds `count` values, and any bytes are valid values.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.count) }
    }
}

impl<T: Plain> std::ops::DerefMut for Storage<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and the map is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), self.count) }
    }
}
