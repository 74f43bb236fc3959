//! The end of the process.

/// Ends the process at once, without running exit handlers or destructors. The handlers of a GPU's driver wait for its
/// device, so an orderly exit can hang if the device does.
pub fn exit_immediately(code: u8) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(i32::from(code)) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const CHILD: &str = "GROUNDLING_TEST_EXIT_IMMEDIATELY";

    #[test]
    fn the_process_ends_with_the_code() {
        if std::env::var_os(CHILD).is_some() {
            exit_immediately(70);
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "process::tests::the_process_ends_with_the_code"]).env(CHILD, "1");
        assert_eq!(command.status().unwrap().code(), Some(70));
    }
}
