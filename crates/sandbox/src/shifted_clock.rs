//! A clock that is wrong, for processes that a test starts.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::SandboxError;

const SOURCE: &str = include_str!("clock_shift.c");

/// A library that shifts the time of day of a process that it is loaded into. It needs a C compiler, as the build does,
/// and a program that is linked with the system's C library.
#[derive(Debug)]
pub struct ShiftedClock {
    home: TempDir,
}

impl ShiftedClock {
    /// Compiles the library, in a folder that goes with this value.
    pub fn build() -> Result<Self, SandboxError> {
        let home =
            TempDir::with_prefix("groundling-clock-").map_err(SandboxError::io("create a folder for a clock"))?;
        fs::write(home.path().join("clock.c"), SOURCE).map_err(SandboxError::io("write the source of a clock"))?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o", "clock.so", "clock.c"]).current_dir(home.path());
        let output = compiler.output().map_err(SandboxError::io("run cc"))?;
        if output.status.success() {
            Ok(Self { home })
        } else {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(SandboxError::Io { what: "compile a clock".into(), cause: std::io::Error::other(said) })
        }
    }

    /// What a process has in its environment whose clock is to be so many seconds ahead, or behind.
    pub fn variables(&self, seconds: i64) -> [(&'static str, String); 2] {
        let library = self.home.path().join("clock.so").display().to_string();
        [("LD_PRELOAD", library), ("SANDBOX_CLOCK_SHIFT", seconds.to_string())]
    }
}
