//! CPU time, not wall time: what a machine does beside it does not show.

#[path = "../common/bound.rs"]
mod bound;

use std::hint::black_box;

pub(crate) use bound::bound;
use rustix::time::{ClockId, clock_gettime};

/// Repeats of each measurement; the first, which warms up, does not count.
const REPEATS: usize = 7;

/// A repeat takes at least about so long.
const MEASURABLE_NS: f64 = 1e6;

/// CPU nanoseconds of this thread so far.
pub(crate) fn thread_ns() -> f64 {
    ns(ClockId::ThreadCPUTime)
}

/// CPU nanoseconds of all threads of this process so far.
pub(crate) fn process_ns() -> f64 {
    ns(ClockId::ProcessCPUTime)
}

fn ns(clock: ClockId) -> f64 {
    let now = clock_gettime(clock);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// What one unit (a row, a window, a test) costs, in CPU nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) least: f64,
    pub(crate) median: f64,
}

impl Cost {
    /// From the costs of some repeats.
    pub(crate) fn of(mut repeats: Vec<f64>) -> Self {
        repeats.sort_by(f64::total_cmp);
        Self {
            least: repeats[0],
            median: repeats[repeats.len() / 2],
        }
    }
}

/// The cost of `work`, which does `units` units on this thread. It is given what `prepare` makes,
/// which does not count.
pub(crate) fn repeat_with<T, R>(
    units: usize,
    mut prepare: impl FnMut() -> T,
    mut work: impl FnMut(T) -> R,
) -> Cost {
    let mut once = || {
        let input = prepare();
        let begun = thread_ns();
        let output = black_box(work(black_box(input)));
        let took = thread_ns() - begun;
        drop(output);
        took / units as f64
    };
    once();
    Cost::of((0..REPEATS).map(|_| once()).collect())
}

/// The cost of `work`, which does `units` units on this thread. What is short is done often, so that
/// reading the clock does not count.
pub(crate) fn repeat<R>(units: usize, mut work: impl FnMut() -> R) -> Cost {
    let begun = thread_ns();
    black_box(work());
    let took = thread_ns() - begun;
    let times = (1_u16..10_000)
        .find(|times| f64::from(*times) * took > MEASURABLE_NS)
        .unwrap_or(10_000);
    let units = units * usize::from(times);
    repeat_with(
        units,
        || (),
        |()| (0..times).for_each(|_| drop(black_box(work()))),
    )
}

/// Prints costs as a table in Markdown, each beside the limit: the least that anything could cost
/// that touches the same data, timed in the same run.
#[derive(Debug)]
pub(crate) struct Table {
    limit: Cost,
}

impl Table {
    pub(crate) fn new(title: &str, unit: &str, limit: &str, cost: Cost) -> Self {
        println!("\n### {title}\n");
        println!(
            "| what | CPU ns per {unit}, median | least | M {unit}s/s per core | of the limit |"
        );
        println!("|---|---:|---:|---:|---:|");
        let table = Self { limit: cost };
        table.line(&format!("limit: {limit}"), cost);
        table
    }

    pub(crate) fn line(&self, what: &str, cost: Cost) {
        println!(
            "| {what} | {:.0} | {:.0} | {:.3} | {:.1} x |",
            cost.median,
            cost.least,
            1e3 / cost.median,
            cost.median / self.limit.median
        );
    }
}
