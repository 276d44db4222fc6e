//! What is held while one window grows, with checkpoints in between.

use std::sync::Arc;

use driftd::ingest::decode::BATCH_ROWS;
use driftd::ingest::plan::TopicPlan;
use driftd::profile::sample::RowHash;
use driftd::window::open::OpenWindows;

use crate::measure::bound;
use crate::profile::{BATCH_OFFSETS, rows};
use crate::records;

/// Rows between two checkpoints.
const CHECKPOINT_ROWS: usize = 500_000;
const SAMPLE_ROWS: usize = 10_000;
/// Partitions with few rows each.
const PARTITIONS: usize = 4_000;
const FEW_ROWS: usize = 10;

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
            windows.add(monitor, &batch, &batch.event_ms[0], 0, RowHash::new(7, 0));
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
    quiet(&plan)
}

/// What many partitions hold that each have few rows.
fn quiet(plan: &TopicPlan) -> anyhow::Result<()> {
    println!(
        "\n### memory: {PARTITIONS} partitions, 25 features, {FEW_ROWS} rows between checkpoints\n"
    );
    println!("| | KiB held per partition | KiB of the process per partition |");
    println!("|---|---:|---:|");
    let monitor = &plan.monitors[0];
    let mut batch = rows(plan, FEW_ROWS);
    let before = resident()?;
    let mut partitions: Vec<OpenWindows> = Vec::new();
    partitions.resize_with(PARTITIONS, OpenWindows::default);
    let mut most = 0.0;
    for round in 0..3 {
        for (number, windows) in (0..).zip(&mut partitions) {
            windows.add(
                monitor,
                &batch,
                &batch.event_ms[0],
                number,
                RowHash::new(7, number),
            );
        }
        most = per_partition(&format!("rows of stretch {round}"), &partitions, before)?;
        for windows in &mut partitions {
            drop(windows.cut(monitor));
        }
        per_partition("after its checkpoint", &partitions, before)?;
        for origin in &mut batch.batch.origins {
            origin.offset += BATCH_OFFSETS;
        }
    }
    let what = "GiB of the process with 16,000 such partitions, at most 0.5";
    let all = most * 16_000.0 / f64::from(1 << 20);
    bound(what, all, all <= 0.5);
    Ok(())
}

fn per_partition(what: &str, partitions: &[OpenWindows], before: usize) -> anyhow::Result<f64> {
    let kib = |bytes: usize| bytes as f64 / 1024.0 / partitions.len() as f64;
    let held = partitions.iter().map(OpenWindows::bytes).sum();
    let resident = kib(resident()?.saturating_sub(before));
    println!("| {what} | {:.1} | {resident:.1} |", kib(held));
    Ok(resident)
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
