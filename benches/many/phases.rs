//! The phases that are measured, each a line of the table.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sqlx::PgPool;

use crate::bound::bound;
use crate::replica::Replica;
use crate::usage::{Cpu, Memory, Processes};

/// Gives up where nothing has come for so long.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks at how far driftd is.
const LOOK: Duration = Duration::from_secs(1);

/// What is measured, and what was found so far.
pub(crate) struct Phases {
    pub(crate) replica: Replica,
    pub(crate) processes: Processes,
    pub(crate) pool: PgPool,
    /// Of all phases, in MiB.
    pub(crate) peak: f64,
}

/// How things stood when a phase began.
pub(crate) struct Begun {
    at: Instant,
    cpu: Cpu,
    judged: i64,
}

/// How far driftd is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Progress {
    /// Windows with their verdict.
    pub(crate) judged: i64,
    /// Rows of which the profiles are stored, over all partitions.
    pub(crate) saved: i64,
}

impl Phases {
    pub(crate) fn print_header() {
        println!(
            "| phase | s | driftd, MiB at its end | at most | CPU s | % of a core \
             | Postgres, MiB | % of a core | brokers, % of a core | partitions read | windows judged |"
        );
        println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    }

    pub(crate) async fn begin(&self) -> anyhow::Result<Begun> {
        self.processes.forget_peak()?;
        Ok(Begun {
            judged: self.progress().await?.judged,
            at: Instant::now(),
            cpu: self.processes.cpu()?,
        })
    }

    /// Prints the line of a phase; answers what driftd took of a core, in percent.
    pub(crate) async fn end(&mut self, phase: &str, begun: Begun) -> anyhow::Result<f64> {
        self.replica.check()?;
        let seconds = begun.at.elapsed().as_secs_f64();
        let (cpu, memory) = (self.processes.cpu()?, self.processes.memory()?);
        let judged = self.progress().await?.judged - begun.judged;
        let partitions = self.replica.metric("driftd_assigned_partitions");
        let Memory {
            driftd,
            driftd_peak,
            postgres,
        } = memory;
        let took = cpu.driftd - begun.cpu.driftd;
        let percent = |now: f64, before: f64| 100.0 * (now - before) / seconds;
        println!(
            "| {phase} | {seconds:.0} | {driftd:.0} | {driftd_peak:.0} | {took:.1} | {:.1} \
             | {postgres:.0} | {:.1} | {:.1} | {partitions} | {judged} |",
            percent(cpu.driftd, begun.cpu.driftd),
            percent(cpu.postgres, begun.cpu.postgres),
            percent(cpu.brokers, begun.cpu.brokers),
        );
        self.peak = self.peak.max(driftd_peak);
        Ok(percent(cpu.driftd, begun.cpu.driftd))
    }

    /// Waits until driftd is so far; says when it got there.
    pub(crate) async fn wait_for(&mut self, wanted: Progress) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut last = self.progress().await?;
        let mut moved = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            self.replica.check()?;
            let now = self.progress().await?;
            let seconds = begun.elapsed().as_secs_f64();
            for milestone in milestones(last, now, wanted) {
                eprintln!("{seconds:.0} s after the start {milestone}");
            }
            if now.judged >= wanted.judged && now.saved >= wanted.saved {
                return Ok(());
            }
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            ensure!(
                moved.elapsed() < PATIENCE,
                "nothing has moved for {} s: {now:?}, wanted: {wanted:?}",
                PATIENCE.as_secs()
            );
        }
    }

    pub(crate) async fn progress(&self) -> anyhow::Result<Progress> {
        let sql = "select (select count(*) from driftd.windows) as judged,
            (select coalesce(sum(next_offset), 0)::bigint from driftd.partition_progress) as saved";
        Ok(sqlx::query_as(sql).fetch_one(&self.pool).await?)
    }
}

/// What was reached between two looks.
fn milestones(
    last: Progress,
    now: Progress,
    wanted: Progress,
) -> impl Iterator<Item = &'static str> {
    let reached = |before: i64, now: i64, goal: i64| before < goal && now >= goal;
    let all = [
        (
            "the first window is judged",
            reached(last.judged, now.judged, 1),
        ),
        (
            "all windows are judged",
            reached(last.judged, now.judged, wanted.judged),
        ),
        (
            "all rows are read and saved",
            reached(last.saved, now.saved, wanted.saved),
        ),
    ];
    all.into_iter()
        .filter_map(|(what, is_reached)| is_reached.then_some(what))
}

/// The most that a replica may take: monitors, partitions of each, MiB, percent of a core when idle.
const BOUNDS: [(usize, usize, f64, f64); 3] = [
    (28, 4, 250.0, 3.0),
    (100, 16, 400.0, 3.0),
    (1000, 16, 2048.0, 20.0),
];

/// Holds what was found to the bounds, where there are some for so many partitions.
pub(crate) fn check_bounds(monitors: usize, partitions: usize, peak_mib: f64, idle_percent: f64) {
    for (m, p, most_mib, most_percent) in BOUNDS {
        if (m, p) == (monitors, partitions) {
            let what = format!("MiB of memory at most, under {most_mib}");
            bound(&what, peak_mib, peak_mib < most_mib);
            let what = format!("percent of a core when idle, under {most_percent}");
            bound(&what, idle_percent, idle_percent < most_percent);
        }
    }
}
