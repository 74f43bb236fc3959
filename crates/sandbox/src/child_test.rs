//! Tests that need a process of their own.

use std::process::Command;

/// A command that runs this test program again with one ignored test only, for example to kill it or to give it other
/// environment variables. `name` is the test's full path, as `cargo test` prints it.
///
/// The program also succeeds if it has no test of this name, so the caller must look for a result of the child's work, or
/// at least for `1 passed` in its standard output.
///
/// # Panics
/// If the path of this program is unknown.
#[expect(clippy::expect_used, reason = "only tests call it, and a panic in a test is the report")]
pub fn child_test(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of this test program"));
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    command
}
