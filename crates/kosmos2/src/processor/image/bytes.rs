//! Bounds-checked access to bytes.

/// The `N` bytes at an offset; `None` if the slice ends before them.
pub(super) fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
