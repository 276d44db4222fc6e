//! Child processes, and what the kernel knows of them.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

/// The kernel counts CPU time in hundredths of a second.
pub(crate) const TICKS: f64 = 100.0;

/// Lines of a log that say why its process has ended.
const LAST_LINES: usize = 20;

/// A command that is killed when this program ends, however it ends. Start it from the main thread:
/// the kernel follows the thread that starts it.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// User and system time of a process so far.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let times = stat(pid)?;
    Ok((times[11] + times[12]) as f64 / TICKS)
}

/// The fields of `/proc/PID/stat` that follow the name; those that are no numbers are 0.
pub(crate) fn stat(pid: u32) -> anyhow::Result<Vec<i64>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')').context("no process name")?;
    let number = |field: &str| field.parse().unwrap_or_default();
    Ok(rest.split_whitespace().map(number).collect())
}

/// The last lines of a log.
pub(crate) fn end_of(log: &Path) -> std::io::Result<String> {
    let log = std::fs::read_to_string(log)?;
    let lines: Vec<&str> = log.lines().collect();
    Ok(lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"))
}
