//! The bounds that the rule has to keep: `./dev bench worlds --check`, a part of `.ci/run`.

use crate::measure::{CHANGES, Named, Plan, applies};
use crate::report::{Mean, Report};
use crate::stream::World;

pub(crate) const K: usize = 90;
pub(crate) const SEED: u64 = 4_000_000;
pub(crate) const BASELINES: u64 = 6;
const QUIET: usize = 300;

const WORLDS: [World; 12] = [
    World::Iid,
    World::Wobble,
    World::WobbleT3,
    World::Ar8,
    World::Ar9Shared,
    World::WeekAr5Unequal,
    World::Burst,
    World::Trickle,
    World::Cluster,
    World::Zero95,
    World::Hourly,
    World::Constant,
];
/// Changes that every world with such a feature finds within two windows.
const EVERYWHERE: [&str; 5] = [
    "newlevel 0.01",
    "range 0.01",
    "null 0.02",
    "zero 0.10",
    "shift 0.5",
];
/// Those that it finds where windows are independent.
const INDEPENDENT: [&str; 2] = ["spread 1.2", "corr 0.5"];
const SOON: f64 = 2.0;

pub(crate) fn plans() -> Vec<Plan> {
    let plan = |world: World| Plan {
        world,
        k: K,
        quiet: QUIET,
        changes: changes(world),
        one_row: true,
    };
    WORLDS.into_iter().map(plan).collect()
}

fn changes(world: World) -> Vec<Named> {
    let independent = matches!(world, World::Iid | World::Wobble);
    let asked = |(name, change): &Named| {
        let here = EVERYWHERE.contains(name) || independent && INDEPENDENT.contains(name);
        here && applies(world, *change)
    };
    CHANGES.into_iter().filter(asked).collect()
}

/// Prints a line per bound; whether all are kept.
pub(crate) fn compare(report: &Report) -> bool {
    let world = report.plan.world;
    let persistent = world.is_persistent();
    let mut bounds = Bounds { world, kept: true };
    bounds.at_most("episodes per 30 quiet windows", &report.episodes(), 1.0);
    let drifted = match world {
        World::Burst => 0.055,
        _ if persistent => 0.075,
        _ => 0.05,
    };
    bounds.at_most("share of quiet windows drifted", &report.drifted(), drifted);
    let length = if persistent { 8.0 } else { 4.0 };
    if !report.lengths().is_empty() {
        bounds.at_most("windows in a false episode", &report.lengths(), length);
    }
    let alarms = report
        .baselines
        .iter()
        .map(|one| one.one_row)
        .sum::<usize>();
    bounds.line("alarms from one row", alarms as f64, 0.0, 0.0, alarms == 0);
    for (name, _) in &report.plan.changes {
        if *name == "shift 0.5" {
            compare_shift(report, &mut bounds); // it is found when the wobble of the world allows it
            continue;
        }
        let median = report.median_delay(name).unwrap_or(f64::NAN); // no start: not kept
        let what = format!("median delay of {name}");
        bounds.line(&what, median, 0.0, SOON, median <= SOON);
    }
    bounds.kept
}

/// A lasting change that is found stays found, and is over soon after its end.
fn compare_shift(report: &Report, bounds: &mut Bounds) {
    let persistent = bounds.world.is_persistent();
    let stay = report.per_baseline("shift 0.5", |found| found.stay);
    let least = if persistent { 0.83 } else { 0.95 };
    bounds.at_least("share of windows drifted once 0.5 is found", &stay, least);
    let after = |found: &crate::measure::Found| found.after.map(|after| after as f64);
    let most = if persistent { 5.5 } else { 2.0 };
    bounds.at_most(
        "windows until stable after 0.5",
        &report.per_baseline("shift 0.5", after),
        most,
    );
}

struct Bounds {
    world: World,
    kept: bool,
}

impl Bounds {
    /// The mean over baselines, less two standard errors. No value keeps no bound.
    fn at_most(&mut self, what: &str, values: &[f64], most: f64) {
        let Mean { mean, error } = Mean::of(values).unwrap_or(Mean::UNKNOWN);
        self.line(what, mean, error, most, mean - margin(error) <= most);
    }

    fn at_least(&mut self, what: &str, values: &[f64], least: f64) {
        let Mean { mean, error } = Mean::of(values).unwrap_or(Mean::UNKNOWN);
        self.line(what, mean, error, least, mean + margin(error) >= least);
    }

    fn line(&mut self, what: &str, found: f64, error: f64, bound: f64, ok: bool) {
        self.kept &= ok;
        let (world, verdict) = (self.world.name(), if ok { "ok" } else { "OVER" });
        println!("{verdict:4}  {world:17}  {what}: {found:.3} (error {error:.3}), bound {bound}");
    }
}

/// Two standard errors; none where there is one value, which says nothing of its error.
fn margin(error: f64) -> f64 {
    if error.is_finite() { 2.0 * error } else { 0.0 }
}
