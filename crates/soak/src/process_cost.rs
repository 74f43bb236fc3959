//! CPU time of processes.

use std::time::Duration;

use anyhow::Context;

/// The fields of `/proc/PID/stat` before user and system time, after the name.
const FIELDS_BEFORE: usize = 11;

/// User and system time of a running process, with its finished children.
///
/// # Errors
/// If the process does not exist.
pub(crate) fn cpu_time(process: u32) -> anyhow::Result<Duration> {
    let file = format!("/proc/{process}/stat");
    let text = std::fs::read_to_string(&file).with_context(|| file.clone())?;
    // The name is in parentheses and may contain spaces.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(FIELDS_BEFORE).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<u64, _>>().with_context(|| file.clone())?;
    let each = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks as f64 / each as f64))
}
