//! CPU time, not wall time: what other processes do does not show.

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this thread in seconds.
pub(crate) fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
