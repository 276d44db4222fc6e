//! The tests: windows of 1,000 and of 10,000 rows against a baseline of 100,000.

use std::sync::Arc;

use driftd::compare::wasserstein::BinSum;
use driftd::compare::window::Reference;
use driftd::compare::{Test, chi2, js, ks, psi, rates, wasserstein};
use driftd::profile::sample::{OWN_COLUMNS, RowHash};
use driftd::profile::{Bins, Profile, Values, coarse};
use driftd::window::open::OpenWindows;

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;

use crate::measure::{Cost, Table, repeat};
use crate::profile::rows;
use crate::records;

/// The features that the tests on one feature are run on: a number, a label.
const NUMBER: usize = 0;
const LABEL: usize = 24;

pub(crate) fn run() -> anyhow::Result<()> {
    let baseline = Arc::new(records::baseline()?);
    let layout = (*baseline.layout).clone();
    let reference = Reference::new(layout, &baseline.layout, &baseline.profile);
    for size in [1_000, 10_000] {
        let mut window = window(&baseline, size)?;
        on_one_feature(&reference, &baseline.profile, &mut window, size)?;
        let tests: Vec<Test> = Test::ALL
            .into_iter()
            .filter(|test| *test != Test::Learned)
            .collect();
        let copy = repeat(1, || window.clone());
        let title = format!("compare: a window of {size} rows, all tests of 25 features");
        let table = Table::new(&title, "window", "a copy of its profile", copy);
        table.line(
            "exact, on all rows",
            repeat(1, || reference.compare(&mut window, &tests)),
        );
        window.rows += 1; // as if the sample had not held all of them
        table.line(
            "on the fine grid",
            repeat(1, || reference.compare(&mut window, &tests)),
        );
    }
    Ok(())
}

fn window(baseline: &Arc<driftd::baseline::Baseline>, size: usize) -> anyhow::Result<Profile> {
    let settings = records::settings("localhost:9092", "postgres://localhost/d", size)?;
    let plan = records::topic_plan(&settings.monitors[0], 1, baseline)?;
    let monitor = &plan.monitors[0];
    let rows = rows(&plan, size);
    let mut windows = OpenWindows::default();
    windows.add(monitor, &rows, &rows.event_ms[0], 0, RowHash::new(7, 0))?;
    Ok(windows.cut(monitor).swap_remove(0).profile)
}

fn on_one_feature(
    reference: &Reference,
    all: &Profile,
    window: &mut Profile,
    size: usize,
) -> anyhow::Result<()> {
    let sorted = sorted(&mut all.clone())?;
    let values = self::sorted(window)?;
    let limit = repeat(1, || {
        sorted.iter().sum::<f64>() + values.iter().sum::<f64>()
    });
    let title = format!("compare: {size} rows against {}, one feature", sorted.len());
    let table = Table::new(&title, "test", "sum of all values", limit);
    let line = |name: &str, cost: Cost| table.line(name, cost);
    line("ks, exact", repeat(1, || ks::exact(&sorted, &values)));
    line(
        "wasserstein, exact",
        repeat(1, || wasserstein::exact(&sorted, &values, 1.0)),
    );
    let number = &reference.layout.features[NUMBER];
    if let (Values::Numeric(left), Values::Numeric(right), Bins::Grid(grid)) = (
        &reference.profile.features[NUMBER].values,
        &window.features[NUMBER].values,
        &number.bins,
    ) {
        let (range, sums) = (
            (left.least, left.greatest),
            |n: &driftd::profile::Numeric| {
                let bins = n.counts.iter().zip(&n.sums);
                let sum = |(count, sum): (&u64, &i128)| BinSum {
                    count: *count,
                    sum: grid.value_of(*sum),
                };
                bins.map(sum).collect::<Vec<_>>()
            },
        );
        line(
            "ks, on the grid",
            repeat(1, || ks::grid(&left.counts, &right.counts)),
        );
        line(
            "wasserstein, on the grid",
            repeat(1, || {
                wasserstein::grid(&grid.cuts, &sums(left), &sums(right), range, 1.0)
            }),
        );
    }
    on_counts(reference, window, size, &table);
    Ok(())
}

fn on_counts(reference: &Reference, window: &Profile, size: usize, table: &Table) {
    for (name, at) in [("a number", NUMBER), ("a label", LABEL)] {
        let layout = &reference.layout.features[at];
        let left = coarse::of_feature(layout, &reference.profile.features[at]);
        let right = coarse::of_feature(layout, &window.features[at]);
        let line = |test: &str, cost: Cost| table.line(&format!("{test}, {name}"), cost);
        line("psi", repeat(1, || psi::counts(&left, &right)));
        line("js", repeat(1, || js::counts(&left, &right)));
        line("chi2", repeat(1, || chi2::homogeneity(&left, &right)));
    }
    let n = size as u64;
    let nulls = repeat(1, || rates::null_rate(1_000, 100_000, n / 90, n));
    table.line("null_rate", nulls);
    let unseen = repeat(1, || rates::unseen_rate(10, 100_000, n / 900, n));
    table.line("unseen_rate", unseen);
}

fn sorted(profile: &mut Profile) -> anyhow::Result<Vec<f64>> {
    let Some(sample) = profile.sample.settle()? else {
        anyhow::bail!("no sample");
    };
    let column = sample.column(OWN_COLUMNS + NUMBER);
    let mut values = column.as_primitive::<Float64Type>().values().to_vec();
    values.sort_by(f64::total_cmp);
    Ok(values)
}
