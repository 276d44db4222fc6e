//! What is held while one window grows, with checkpoints in between.

use std::sync::Arc;

use driftd::ingest::stretch::BATCH_ROWS;
use driftd::profile::sample::RowHash;
use driftd::window::open::OpenWindows;

use crate::measure::bound;
use crate::profile::{BATCH_OFFSETS, rows};
use crate::records;

/// Rows between two checkpoints.
const CHECKPOINT_ROWS: usize = 500_000;
const SAMPLE_ROWS: usize = 10_000;

pub(crate) fn run() -> anyhow::Result<()> {
    println!(
        "\n### memory: one window of 25 features and {SAMPLE_ROWS} sample rows, a checkpoint every {CHECKPOINT_ROWS} rows\n"
    );
    println!("| rows in the window | MiB held at most | MiB of the process |");
    println!("|---:|---:|---:|");
    let settings = records::settings("localhost:9092", "postgres://localhost/d", SAMPLE_ROWS)?;
    let baseline = Arc::new(records::baseline()?);
    let plan = records::topic_plan(&settings.monitors[0], 1, &baseline)?;
    let mut batch = rows(&plan, BATCH_ROWS);
    let monitor = &plan.monitors[0];
    let mut held = Vec::new();
    for total in [10_000, 100_000, 1_000_000, 10_000_000] {
        let mut windows = OpenWindows::default();
        let mut most = 0;
        let mut unsaved = 0;
        for _ in 0..total / BATCH_ROWS {
            for origin in &mut batch.batch.origins {
                origin.offset += BATCH_OFFSETS; // else the sample would see the same rows again
            }
            windows.add(monitor, &batch, &batch.event_ms[0], 0, RowHash::new(7, 0))?;
            most = most.max(windows.bytes());
            unsaved += BATCH_ROWS;
            if unsaved >= CHECKPOINT_ROWS {
                unsaved = 0;
                drop(windows.cut(monitor));
            }
        }
        println!("| {total} | {:.1} | {:.0} |", mib(most), mib(resident()?));
        held.push(most as f64);
    }
    // The first twenty thousand rows fill the sample; from there on nothing grows with the rows.
    let growth = held[held.len() - 1] / held[1];
    let what = "held with 10 million rows, times that with 100 thousand, at most 1.05";
    bound(what, growth, growth <= 1.05);
    Ok(())
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Bytes of memory that this process holds.
fn resident() -> anyhow::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap_or("0").trim().trim_end_matches(" kB");
    Ok(kib.parse::<usize>()? * 1024)
}
