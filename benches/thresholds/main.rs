//! How often driftd's default limits cry wolf, and what they find: `./dev bench thresholds`.
//!
//! Ten references of 10,000 rows; windows of 1,000, 10,000 and 100,000 rows against each, judged by
//! the same code as the daemon's with the limits of `config/default.toml`, where one in twenty is asked for.
//! Prints the table of `docs/statistics.md`, with the upper 95 % limit of the share of windows that alarm
//! (Clopper and Pearson 1934). `-- 1000` runs one size only, `-- --quiet` leaves the drifts out, `-- --quick` runs
//! a tenth of the windows.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "the laws' parameters are constants, and labels are small whole numbers"
)]

#[path = "../common/clock.rs"]
mod clock;
mod columns;

use clap::Parser;
use clock::cpu_seconds;
use columns::{COLUMNS, NUMERIC, Scenario, World};
use driftd::batch::{Batch, Builder, Cell, Selection, Shape};
use driftd::compare::window::Reference;
use driftd::decide::verdict::{Coverage, Judge, Judged, State, Training};
use driftd::monitor::{Judging, Kind};
use driftd::profile::sample::{self, Provenance, RowHash};
use driftd::profile::{Bins, FeatureLayout, Grid, Layout, Levels, Profile};
use driftd::settings::{Defaults, LoadOptions};
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;
use statrs::distribution::{Beta, ContinuousCDF as _};

const REFERENCES: u64 = 10;
const REFERENCE_ROWS: usize = 10_000;
/// What a monitor keeps of a window if nothing else is said.
const SAMPLE_ROWS: usize = 10_000;

/// Window rows, and how many windows without and with drift.
const SIZES: [(usize, usize, usize); 3] = [
    (1_000, 2_000, 200),
    (10_000, 2_000, 100),
    (100_000, 2_000, 20),
];

const DAY_MS: i64 = 86_400_000;
/// False alarms per comparison that are asked for.
const ALPHA: f64 = 0.05;

/// False alarms and finds of the default limits, as a Markdown table.
#[derive(Parser)]
struct Arguments {
    /// Rows of a window: 1000, 10000, 100000; all three if none is named
    rows: Vec<usize>,
    /// A tenth of the windows
    #[arg(long)]
    quick: bool,
    /// Windows without drift alone
    #[arg(long)]
    quiet: bool,
}

fn main() -> anyhow::Result<()> {
    let Arguments {
        rows: only,
        quick,
        quiet: quiet_only,
    } = Arguments::parse();
    let known = |rows: &usize| SIZES.iter().any(|size| size.0 == *rows);
    if let Some(unknown) = only.iter().find(|rows| !known(rows)) {
        anyhow::bail!(
            "windows of {unknown} rows are not measured; there are 1000, 10000 and 100000"
        );
    }
    let judging = Defaults::load(LoadOptions::<Vec<(String, String)>>::default())?.judging;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    let world = World::new(&mut random);
    let judges: Vec<Judge> = (0..REFERENCES)
        .map(|at| {
            judge(
                &world,
                &judging,
                &mut Xoshiro256PlusPlus::seed_from_u64(500 + at),
            )
        })
        .collect();
    println!("alpha {ALPHA}, {}", judging.adjustment.as_str());
    println!(
        "| rows | scenario | windows | any alarm | at most | the drifted column | any other column | all together | share of columns | CPU ms a window |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (rows, quiet, drifted) in SIZES {
        if !only.is_empty() && !only.contains(&rows) {
            continue;
        }
        for scenario in Scenario::ALL {
            if quiet_only && scenario != Scenario::NoDrift {
                continue;
            }
            let windows = if scenario == Scenario::NoDrift {
                quiet
            } else {
                drifted
            };
            let windows = if quick {
                (windows / 10).max(10)
            } else {
                windows
            };
            run(&world, &judges, rows, scenario, windows);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Rates {
    any: usize,
    target: usize,
    others: usize,
    joint: usize,
    share: f64,
    tests: std::collections::BTreeMap<String, usize>,
}

fn run(world: &World, judges: &[Judge], rows: usize, scenario: Scenario, windows: usize) {
    let mut rates = Rates::default();
    let mut seconds = 0.0;
    for at in 0..windows {
        let seed = 99 + scenario as u64 * 1_000_003 + rows as u64 * 31 + at as u64 * 7_919;
        let columns = world.draw(rows, scenario, &mut Xoshiro256PlusPlus::seed_from_u64(seed));
        let judge = &judges[at % judges.len()];
        let mut window = profile(&judge.reference.layout, &columns, SAMPLE_ROWS, seed);
        let begun = cpu_seconds();
        let judged = judge.judge(
            &mut window,
            Vec::new(),
            0,
            Coverage::default(),
            &mut State::default(),
        );
        seconds += cpu_seconds() - begun;
        rates.add(&judged, scenario);
    }
    rates.print(rows, scenario, windows, seconds);
}

impl Rates {
    fn add(&mut self, judged: &Judged, scenario: Scenario) {
        let target = scenario.column().map(name);
        let hit = target.is_some_and(|target| judged.drifted.contains(&target));
        self.any += usize::from(!judged.drifted.is_empty() || judged.joint);
        self.target += usize::from(hit);
        self.others += usize::from(judged.drifted.len() > usize::from(hit));
        self.joint += usize::from(judged.joint);
        self.share += judged.drifted_share();
        for score in judged.scores.iter().filter(|score| score.drifted) {
            let of = format!("{} {}", score.feature, score.test);
            *self.tests.entry(of).or_default() += 1;
        }
    }

    fn print(&self, rows: usize, scenario: Scenario, windows: usize, seconds: f64) {
        let percent = |count: usize| format!("{:.1}", 100.0 * count as f64 / windows as f64);
        let target = scenario
            .column()
            .map_or("-".into(), |_| percent(self.target));
        println!(
            "| {rows} | {} | {windows} | {} | {:.1} | {target} | {} | {} | {:.2} | {:.0} |",
            scenario.name(),
            percent(self.any),
            100.0 * upper_limit(self.any, windows),
            percent(self.others),
            percent(self.joint),
            100.0 * self.share / windows as f64,
            1e3 * seconds / windows as f64,
        );
        let mut tests: Vec<_> = self.tests.iter().collect();
        tests.sort_by(|a, b| b.1.cmp(a.1));
        let tests: Vec<String> = tests
            .iter()
            .take(5)
            .map(|(of, n)| format!("{of} {n}"))
            .collect();
        eprintln!("  {}", tests.join(", "));
    }
}

/// Upper end of the two-sided 95 % interval of a share.
fn upper_limit(count: usize, of: usize) -> f64 {
    if count >= of {
        return 1.0;
    }
    let law = Beta::new(count as f64 + 1.0, (of - count) as f64).unwrap();
    law.inverse_cdf(0.975)
}

fn name(column: usize) -> String {
    format!("c{column:02}")
}

fn judge(world: &World, judging: &Judging, random: &mut Xoshiro256PlusPlus) -> Judge {
    let columns = world.draw(REFERENCE_ROWS, Scenario::NoDrift, random);
    let features = columns.iter().enumerate().map(|(i, values)| FeatureLayout {
        name: name(i),
        kind: if i < NUMERIC {
            Kind::Numeric
        } else {
            Kind::Categorical
        },
        plain_numbers: false,
        dimension: 0,
        bins: if i < NUMERIC {
            grid(values)
        } else {
            levels(values)
        },
    });
    let layout = Layout {
        features: features.collect(),
    };
    let profile = profile(&layout, &columns, REFERENCE_ROWS, 1);
    let reference = Reference::new(
        layout.clone(),
        &layout,
        &profile,
        judging.tests(),
        Vec::new(),
    );
    Judge {
        baseline_id: String::new(),
        reference,
        training: Training::TooFew {
            windows: 1,
            asking: None,
        },
        judging: judging.clone(),
        every_ms: DAY_MS,
        alpha: ALPHA,
    }
}

fn grid(values: &[f64]) -> Bins {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (least, greatest) = (sorted[0], sorted[sorted.len() - 1]);
    Bins::Grid(Grid::from_sorted(&sorted, least, greatest))
}

fn levels(values: &[f64]) -> Bins {
    let mut counts = std::collections::BTreeMap::<u64, usize>::new();
    for value in values {
        *counts.entry(*value as u64).or_default() += 1;
    }
    let mut levels: Vec<(u64, usize)> = counts.into_iter().collect();
    levels.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    Bins::Levels(Levels::new(
        levels.iter().map(|(label, _)| label.to_string()).collect(),
    ))
}

/// Columns as the daemon would have profiled them.
fn profile(layout: &Layout, columns: &[Vec<f64>], sample_rows: usize, key: u64) -> Profile {
    let rows = columns[0].len();
    let batch = batch(columns, rows);
    let places: Vec<usize> = (0..COLUMNS).collect();
    let all = Selection::all(&batch);
    let mut profile = Profile::empty(layout, sample_rows);
    profile.add(layout, &batch, &places, all);
    let from = Provenance {
        partition: 0,
        hash: RowHash::new(key, 0),
        event_ms: &vec![0; rows],
    };
    let schema = sample::schema(layout);
    profile.sample.add(&schema, &batch, &places, all, from);
    profile
}

fn batch(columns: &[Vec<f64>], rows: usize) -> Batch {
    let shape = |i: usize| {
        if i < NUMERIC {
            Shape::Number
        } else {
            Shape::Text
        }
    };
    let shapes: Vec<Shape> = (0..COLUMNS).map(shape).collect();
    let mut builder = Builder::new(&shapes, rows);
    for (i, values) in columns.iter().enumerate() {
        for (row, value) in values.iter().enumerate() {
            if value.is_nan() {
                builder.absent(i, row, Cell::Null);
            } else if i < NUMERIC {
                builder.number(i, row, *value, Cell::Ok);
            } else {
                builder.text(i, row, &(*value as u64).to_string(), Cell::Ok);
            }
        }
    }
    for row in 0..rows {
        builder.keep(row as i64, 1);
    }
    builder.finish()
}
