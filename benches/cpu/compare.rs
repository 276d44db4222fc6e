//! The tests: a window of 100,000 rows against a baseline of 100,000, each test on one feature, and
//! the usual ones on 50 numbers and 10 labels together, beside sorting the same columns. And what judging
//! costs day by day: all default tests on a window of 1,000 rows against a sample of 10,000.

use driftd::batch::{Batch, Builder, Cell, Selection, Shape};
use driftd::compare::window::Reference;
use driftd::compare::{Scope, Test};
use driftd::monitor::Kind;
use driftd::profile::sample::{self, Provenance, RowHash};
use driftd::profile::{Bins, FeatureLayout, Grid, Layout, Levels, Profile};

use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::measure::{Cost, Table, bound, repeat, repeat_with};

const ROWS: u32 = 100_000;
const COUNT: usize = ROWS as usize;
const NUMBERS: usize = 50;
/// Levels of the labels.
const LABELS: [usize; 10] = [2, 2, 3, 5, 10, 20, 50, 100, 200, 1_000];
/// What the bound of the whole window is about.
const USUAL: [Test; 5] = [Test::Ks, Test::Psi, Test::Js, Test::Wasserstein, Test::Chi2];
/// Seconds of CPU that they may take together, moments and counts included.
const BOUND_SECONDS: f64 = 0.2;
/// The tests of config/default.toml.
const DEFAULT: [Test; 11] = [
    Test::Ks,
    Test::MannWhitney,
    Test::Chi2,
    Test::NullRate,
    Test::UnseenRate,
    Test::OutOfRange,
    Test::DomainClassifier,
    Test::Psi,
    Test::Js,
    Test::Wasserstein,
    Test::RowVolume,
];
/// Rows of a window that is judged with them.
const JUDGED_ROWS: usize = 1_000;
/// Rows of the baseline's sample.
const SAMPLE_ROWS: usize = 10_000;
/// Milliseconds of CPU for 30 features.
const JUDGE_BOUND_MS: f64 = 10.0;

pub(crate) fn run() -> anyhow::Result<()> {
    judging("30 numbers", 30, &[])?;
    judging("20 numbers and 10 labels", 20, &LABELS)?;
    let (reference, baseline) = side(NUMBERS, &LABELS, 1);
    let layout = layout(NUMBERS, &LABELS, &reference);
    let baseline = profile(&layout, &baseline, COUNT)?;
    let reference = against(&layout, &baseline, &USUAL);
    let (columns, batch) = side(NUMBERS, &LABELS, 2);
    whole_window(&reference, &columns, &batch)?;
    for (kind, numbers, labels) in [
        ("a number", 1, vec![]),
        ("a label of 50 levels", 0, vec![50]),
    ] {
        one_feature(kind, numbers, &labels)?;
    }
    Ok(())
}

fn whole_window(reference: &Reference, columns: &[Vec<f64>], batch: &Batch) -> anyhow::Result<()> {
    let sort = sorting(columns);
    let table = Table::new(
        "compare: a window of 100,000 rows, 50 numbers and 10 labels",
        "window",
        "sorting its 50 columns of numbers",
        sort,
    );
    let counted = repeat(1, || counts(&reference.layout, batch));
    table.line("counts and moments of all columns", counted);
    let sampled = profile(&reference.layout, batch, COUNT)?;
    let exact = repeat_with(
        1,
        || sampled.clone(),
        |mut window| reference.compare(&mut window),
    );
    table.line("ks, psi, js, wasserstein, chi2, on all rows", exact);
    let mut on_grid = profile(&reference.layout, batch, 10_000)?;
    let grid = repeat(1, || reference.compare(&mut on_grid));
    table.line("the same on the fine grid", grid);
    let together = Cost {
        least: counted.least + exact.least,
        median: counted.median + exact.median,
    };
    table.line("counts, moments and the five tests on all rows", together);
    let seconds = together.median / 1e9;
    bound(
        &format!("all of it in {BOUND_SECONDS} s of CPU"),
        seconds,
        seconds <= BOUND_SECONDS,
    );
    Ok(())
}

/// A window of few rows, with every default test and with each of them alone.
fn judging(features: &str, numbers: usize, labels: &[usize]) -> anyhow::Result<()> {
    let (columns, baseline) = side_of(SAMPLE_ROWS, numbers, labels, 5);
    let layout = layout(numbers, labels, &columns);
    let baseline = profile(&layout, &baseline, SAMPLE_ROWS)?;
    let (columns, window) = side_of(JUDGED_ROWS, numbers, labels, 6);
    let mut window = profile(&layout, &window, SAMPLE_ROWS)?;
    let title = format!("compare: {JUDGED_ROWS} rows against {SAMPLE_ROWS}, {features}");
    let table = Table::new(
        &title,
        "window",
        "sorting its columns of numbers",
        sorting(&columns),
    );
    let reference = against(&layout, &baseline, &DEFAULT);
    let all = repeat(1, || reference.compare(&mut window));
    table.line("all default tests", all);
    for test in DEFAULT {
        let reference = against(&layout, &baseline, &[test]);
        table.line(test.as_str(), repeat(1, || reference.compare(&mut window)));
    }
    let milliseconds = all.median / 1e6;
    bound(
        &format!("all of it in {JUDGE_BOUND_MS} ms of CPU"),
        milliseconds,
        milliseconds <= JUDGE_BOUND_MS,
    );
    Ok(())
}

fn one_feature(kind: &str, numbers: usize, labels: &[usize]) -> anyhow::Result<()> {
    let (columns, batch) = side(numbers, labels, 3);
    let layout = layout(numbers, labels, &columns);
    let baseline = profile(&layout, &batch, COUNT)?;
    let (columns, batch) = side(numbers, labels, 4);
    let mut window = profile(&layout, &batch, COUNT)?;
    let mut on_grid = profile(&layout, &batch, 1_000)?;
    let title = format!("compare: {ROWS} rows against {ROWS}, {kind}; sorting the window included");
    let table = Table::new(&title, "test", "sorting the values", sorting(&columns));
    let tests = Test::ALL.iter().filter(|test| {
        let one = match test.scope() {
            Scope::Numeric => numbers > 0,
            Scope::Categorical => numbers == 0,
            scope => scope == Scope::Feature,
        };
        one || (numbers > 0 && test.scope() == Scope::Joint)
    });
    for test in tests {
        let reference = against(&layout, &baseline, &[*test]);
        table.line(test.as_str(), repeat(1, || reference.compare(&mut window)));
        if test.scope() == Scope::Numeric {
            let cost = repeat(1, || reference.compare(&mut on_grid));
            table.line(&format!("{test}, on the grid"), cost);
        }
    }
    Ok(())
}

fn against(layout: &Layout, baseline: &Profile, tests: &[Test]) -> Reference {
    Reference::new(layout.clone(), layout, baseline, tests.to_vec(), Vec::new())
}

fn sorting(columns: &[Vec<f64>]) -> Cost {
    repeat_with(
        1,
        || columns.to_vec(),
        |mut columns| {
            for column in &mut columns {
                column.sort_unstable_by(f64::total_cmp);
            }
            columns
        },
    )
}

fn side(numbers: usize, labels: &[usize], seed: u64) -> (Vec<Vec<f64>>, Batch) {
    side_of(COUNT, numbers, labels, seed)
}

/// Numbers column by column (for sorting), and everything as a batch.
fn side_of(rows: usize, numbers: usize, labels: &[usize], seed: u64) -> (Vec<Vec<f64>>, Batch) {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let columns: Vec<Vec<f64>> = (0..numbers)
        .map(|_| {
            (0..rows)
                .map(|_| StandardNormal.sample(&mut random))
                .collect()
        })
        .collect();
    let shape = |i: usize| {
        if i < numbers {
            Shape::Number
        } else {
            Shape::Text
        }
    };
    let shapes: Vec<Shape> = (0..numbers + labels.len()).map(shape).collect();
    let mut builder = Builder::new(&shapes, rows);
    for (i, column) in columns.iter().enumerate() {
        for (row, value) in column.iter().enumerate() {
            builder.number(i, row, *value, Cell::Ok);
        }
    }
    for (i, levels) in labels.iter().enumerate() {
        for row in 0..rows {
            let level = random.random_range(0..*levels);
            builder.text(numbers + i, row, &level.to_string(), Cell::Ok);
        }
    }
    for row in (0..).take(rows) {
        builder.keep(row, 1);
    }
    (columns, builder.finish())
}

fn layout(numbers: usize, labels: &[usize], columns: &[Vec<f64>]) -> Layout {
    let feature = |name: String, kind: Kind, bins: Bins| FeatureLayout {
        name,
        kind,
        plain_numbers: false,
        dimension: 0,
        bins,
    };
    let numeric = columns.iter().take(numbers).enumerate().map(|(i, values)| {
        let mut sorted = values.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let grid = Grid::from_sorted(&sorted, sorted[0], sorted[sorted.len() - 1]);
        feature(format!("n{i}"), Kind::Numeric, Bins::Grid(grid))
    });
    let categorical = labels.iter().enumerate().map(|(i, levels)| {
        let names = (0..*levels).map(|level| level.to_string()).collect();
        feature(
            format!("c{i}"),
            Kind::Categorical,
            Bins::Levels(Levels::new(names)),
        )
    });
    Layout {
        features: numeric.chain(categorical).collect(),
    }
}

fn counts(layout: &Layout, batch: &Batch) -> Profile {
    let places: Vec<usize> = (0..layout.features.len()).collect();
    let all = Selection::all(batch);
    let mut profile = Profile::empty(layout, 0);
    profile.add(layout, batch, &places, all);
    profile
}

fn profile(layout: &Layout, batch: &Batch, sample_rows: usize) -> anyhow::Result<Profile> {
    let mut profile = counts(layout, batch);
    let places: Vec<usize> = (0..layout.features.len()).collect();
    let all = Selection::all(batch);
    let from = Provenance {
        partition: 0,
        hash: RowHash::new(7, 0),
        event_ms: &vec![0; all.len()],
    };
    profile.sample = driftd::profile::Sample::new(sample_rows);
    let schema = sample::schema(layout);
    profile.sample.add(&schema, batch, &places, all, from);
    profile.sample.settle()?;
    Ok(profile)
}
