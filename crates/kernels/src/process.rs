//! The end of the process.

/// Ends the process at once, without running exit handlers or destructors. The handlers of a GPU's driver wait for its
/// device, so an orderly exit can hang if the device does.
pub fn exit_immediately(code: u8) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(i32::from(code)) }
}
