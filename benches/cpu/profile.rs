//! Columns to profiles; profiles merged, stored and read.

use std::hint::black_box;
use std::sync::Arc;

use driftd::batch::{Rows, Selection, Slice};
use driftd::ingest::decode::BATCH_ROWS;
use driftd::ingest::plan::TopicPlan;
use driftd::ingest::stretch::{Message, Stretch};
use driftd::profile::sample::RowHash;
use driftd::profile::{Profile, encoding};
use driftd::settings::MessageLimits;
use driftd::window::open::OpenWindows;

use crate::measure::{Cost, Table, repeat, repeat_with};
use crate::records;

/// Batches per repeat.
const BATCHES: usize = 20;
/// Offsets of a batch.
pub(crate) const BATCH_OFFSETS: i64 = 1024;

/// So many rows, decoded as the collect half does it.
pub(crate) fn rows(plan: &TopicPlan, rows: usize) -> Rows {
    let mut stretch = Stretch::new(plan, MessageLimits::default());
    for (offset, payload) in (0..).zip(records::payloads(rows)) {
        let message = Message {
            offset,
            record_ms: None,
            payload: Some(&payload),
            headers: &[],
        };
        stretch.take(plan, message);
    }
    stretch.finish()
}

pub(crate) fn run() -> anyhow::Result<()> {
    let baseline = Arc::new(records::baseline()?);
    let few = add_to_windows(&baseline, 100)?;
    let all = add_to_windows(&baseline, 100_000)?;
    let settings = records::settings("localhost:9092", "postgres://localhost/d", 1_000)?;
    let plan = records::topic_plan(&settings.monitors[0], 1, &baseline)?;
    let rows = rows(&plan, BATCH_ROWS);
    let version = plan.monitors[0].version("1");
    let (layout, columns) = (&version.layout, &version.columns);

    let title = "profile: 20 numeric and 5 categorical features";
    let table = Table::new(title, "row", "sum of all cells", sum(&rows));
    let selected = Selection::all(&rows.batch);
    let mut profile = Profile::empty(layout, 0);
    let added = repeat(BATCHES * BATCH_ROWS, || {
        for _ in 0..BATCHES {
            profile.add(layout, &rows.batch, columns, black_box(selected));
        }
    });
    table.line("profile", added);
    table.line("windows, profile and sample, of which few rows", few);
    table.line("windows, profile and sample, of which every row", all);

    let copy = repeat(1, || profile.clone());
    let title = "profile: what one window of one partition adds";
    let table = Table::new(title, "profile", "a copy", copy);
    let mut sum = profile.clone();
    table.line("merge", repeat(1, || sum.merge(&profile)));
    let mut stored = profile;
    let bytes = encoding::encode(&mut stored, true)?;
    table.line(
        &format!("store, {} bytes without a sample", bytes.len()),
        repeat(1, || encoding::encode(&mut stored, true).map(|b| b.len())),
    );
    table.line(
        "read",
        repeat(1, || encoding::decode(&bytes, layout).is_ok()),
    );
    let mut sampled = sampled(&plan, &rows)?;
    let bytes = encoding::encode(&mut sampled, true)?;
    table.line(
        &format!("store, {} bytes with 1,000 sample rows", bytes.len()),
        repeat(1, || encoding::encode(&mut sampled, true).map(|b| b.len())),
    );
    table.line(
        "read with 1,000 sample rows",
        repeat(1, || encoding::decode(&bytes, layout).is_ok()),
    );
    Ok(())
}

fn sum(rows: &Rows) -> Cost {
    let sum = |column: usize| match rows.batch.values(column) {
        Slice::Number(values) => values.iter().sum(),
        Slice::Text(codes, _) => f64::from(codes.iter().sum::<u32>()),
        Slice::Time(_) | Slice::Vector(..) => 0.0,
    };
    let columns = rows.batch.columns();
    let one = || (0..columns).map(sum).sum::<f64>();
    repeat(BATCHES * BATCH_ROWS, || {
        (0..BATCHES).map(|_| one()).sum::<f64>()
    })
}

/// Rows assigned to their window, profiled and sampled: the steady state of a window whose sample
/// is full, or all of them into the sample.
fn add_to_windows(
    baseline: &Arc<driftd::baseline::Baseline>,
    sample_rows: usize,
) -> anyhow::Result<Cost> {
    let settings = records::settings("localhost:9092", "postgres://localhost/d", sample_rows)?;
    let plan = records::topic_plan(&settings.monitors[0], 1, baseline)?;
    let monitor = &plan.monitors[0];
    let batches: Vec<Rows> = (0..)
        .take(BATCHES)
        .map(|batch| {
            let mut rows = rows(&plan, BATCH_ROWS);
            for origin in &mut rows.batch.origins {
                origin.offset += batch * BATCH_OFFSETS;
            }
            rows
        })
        .collect();
    let hash = RowHash::new(7, 0);
    Ok(repeat_with(
        BATCHES * BATCH_ROWS,
        OpenWindows::default,
        |mut windows| {
            for rows in &batches {
                windows.add(monitor, rows, &rows.event_ms[0], 0, hash);
            }
            windows
        },
    ))
}

fn sampled(plan: &TopicPlan, rows: &Rows) -> anyhow::Result<Profile> {
    let monitor = &plan.monitors[0];
    let mut windows = OpenWindows::default();
    windows.add(monitor, rows, &rows.event_ms[0], 0, RowHash::new(7, 0));
    let mut deltas = windows.cut(monitor);
    Ok(deltas.swap_remove(0).profile)
}
