//! False alarms and delays of the rule in worlds where both are known: `./dev bench worlds`.
//!
//! Prints a Markdown table, one line per world and number of training windows. `--quick` measures a
//! part of it, `--k=90,200` some numbers of training windows, `--baselines=N`, `--seed=S`, and `WORLD...` the
//! worlds whose name holds one of the words. `--check` compares ten worlds with their bounds
//! (`check.rs`) and fails over them; `--cost` prints CPU times.
//!
//! A baseline of K windows is learned for one false alarm in 30 windows. Then 400 quiet windows are judged, and
//! for each change two fresh starts: 40 windows without it, 60 with it and 30 without it again. Rows are drawn and
//! binned on a grid made from the training rows; what follows is the daemon's code.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::exit,
    reason = "the laws' parameters are constants, and counts are small"
)]

mod baseline;
mod check;
#[path = "../common/clock.rs"]
mod clock;
mod cost;
mod measure;
mod report;
mod stream;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use clock::cpu_seconds;
use measure::{CHANGES, Measured, Plan, applies};
use report::Report;
use stream::World;

const THREADS: usize = 2;
/// No constant of the rule was chosen on these seeds.
const SEED: u64 = 900_000;
/// Seeds of one baseline.
const SEEDS: u64 = 100;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    if flag("--cost") {
        return cost::print();
    }
    if flag("--check") {
        return check();
    }
    let value = |name: &str| arguments.iter().find_map(|a| a.strip_prefix(name));
    let quick = flag("--quick");
    let sizes: Vec<usize> = match value("--k=") {
        Some(k) => k.split(',').map(str::parse).collect::<Result<_, _>>()?,
        None if quick => vec![90],
        None => vec![30, 90, 200],
    };
    let baselines = match value("--baselines=") {
        Some(baselines) => baselines.parse()?,
        None => {
            if quick {
                4
            } else {
                40
            }
        }
    };
    let seed = value("--seed=").map_or(Ok(SEED), str::parse)?;
    let words: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    let wanted = |world: &World| {
        words.is_empty()
            || words
                .iter()
                .any(|word| world.name().contains(word.as_str()))
    };
    println!("{}", Report::header());
    for k in sizes {
        for world in World::ALL.into_iter().filter(wanted) {
            let applies = |named: &measure::Named| applies(world, named.1);
            let plan = Plan {
                world,
                k,
                quiet: 400,
                changes: CHANGES.into_iter().filter(applies).collect(),
                one_row: false,
            };
            println!("{}", run(plan, baselines, seed)?.line());
        }
    }
    Ok(())
}

fn check() -> anyhow::Result<()> {
    let mut kept = true;
    for plan in check::plans() {
        kept &= check::compare(&run(plan, check::BASELINES, check::SEED)?);
    }
    if !kept {
        eprintln!("some bounds are not kept");
        std::process::exit(1);
    }
    Ok(())
}

/// All baselines of a world.
fn run(plan: Plan, baselines: usize, seed: u64) -> anyhow::Result<Report> {
    let next = AtomicUsize::new(0);
    let all: Mutex<Vec<(usize, Measured)>> = Mutex::default();
    let (spent_ms, plan_of) = (AtomicUsize::new(0), &plan);
    let work = || -> anyhow::Result<()> {
        let start = cpu_seconds();
        loop {
            let baseline = next.fetch_add(1, Ordering::Relaxed);
            if baseline >= baselines {
                let spent = 1e3 * (cpu_seconds() - start);
                spent_ms.fetch_add(spent as usize, Ordering::Relaxed);
                return Ok(());
            }
            let measured = plan_of.run(seed + SEEDS * baseline as u64)?;
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.push((baseline, measured));
        }
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        for thread in running {
            match thread.join() {
                Ok(done) => done?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        anyhow::Ok(())
    })?;
    let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_by_key(|(baseline, _)| *baseline);
    let cpu = spent_ms.into_inner() as f64 / 1e3;
    let report = Report {
        plan,
        baselines: all.into_iter().map(|(_, measured)| measured).collect(),
    };
    let (name, k, causes) = (report.plan.world.name(), report.plan.k, report.causes());
    eprintln!("{name}, K = {k}: {cpu:.1} s of CPU; false episodes: {causes}");
    Ok(report)
}
