//! Wrong clocks for the processes of a test.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::error::SandboxError;

const SOURCE: &str = include_str!("clock_shift.c");

/// A preloaded library that shifts the time of day of a process. It needs a C compiler, and a program that is linked
/// dynamically with the system's C library.
#[derive(Debug)]
pub struct ShiftedClock {
    home: TempDir,
}

impl ShiftedClock {
    /// Compiles the library in a temporary folder, which is deleted with this value.
    ///
    /// # Errors
    /// If there is no C compiler `cc`, or it fails.
    pub fn build() -> Result<Self, SandboxError> {
        let home = TempDir::with_prefix("groundling-clock-")
            .map_err(SandboxError::io("create a folder for the clock library"))?;
        fs::write(home.path().join("clock.c"), SOURCE)
            .map_err(SandboxError::io("write the source of the clock library"))?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o", "clock.so", "clock.c"]).current_dir(home.path());
        let output = compiler.output().map_err(SandboxError::io("run cc"))?;
        if output.status.success() {
            Ok(Self { home })
        } else {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(SandboxError::Io { what: "compile the clock library".into(), cause: std::io::Error::other(errors) })
        }
    }

    /// The environment variables for a process whose clock is this many seconds ahead; negative for behind.
    pub fn variables(&self, seconds: i64) -> [(&'static str, String); 2] {
        let library = self.home.path().join("clock.so").display().to_string();
        [("LD_PRELOAD", library), ("SANDBOX_CLOCK_SHIFT", seconds.to_string())]
    }
}
