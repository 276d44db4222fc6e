//! False alarms and delays of the rule in worlds where both are known: `./dev bench worlds`.
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

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use clock::cpu_seconds;
use measure::{CHANGES, Measured, Plan, applies};
use report::Report;
use stream::World;

const THREADS: usize = 2;
/// Seeds of one baseline.
const SEEDS: u64 = 100;

/// False alarms and delays of the rule, as a Markdown table.
#[derive(Parser)]
struct Arguments {
    /// Worlds, by name; all if none is named
    worlds: Vec<String>,
    /// Numbers of training windows
    #[arg(long, value_delimiter = ',', default_values_t = [30, 90, 200])]
    k: Vec<usize>,
    /// Baselines of each world
    #[arg(long, default_value_t = 40)]
    baselines: u64,
    /// What random numbers begin with; no constant of the rule was chosen on this one
    #[arg(long, default_value_t = 900_000)]
    seed: u64,
    /// 4 baselines of 90 windows
    #[arg(long)]
    quick: bool,
    /// Hold most worlds to their bounds, and fail over them
    #[arg(long)]
    check: bool,
    /// Print CPU times
    #[arg(long)]
    cost: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.cost {
        return cost::print();
    }
    if arguments.check {
        return check();
    }
    let (sizes, baselines) = match arguments.quick {
        true => (vec![90], 4),
        false => (arguments.k, arguments.baselines),
    };
    let names = &arguments.worlds;
    let all = World::ALL.map(World::name);
    if let Some(unknown) = names.iter().find(|name| !all.contains(&name.as_str())) {
        anyhow::bail!(
            "no world is called `{unknown}`; there are: {}",
            all.join(", ")
        );
    }
    let wanted = |world: &World| names.is_empty() || names.iter().any(|name| name == world.name());
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
            println!("{}", run(plan, baselines, arguments.seed)?.line());
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
fn run(plan: Plan, baselines: u64, seed: u64) -> anyhow::Result<Report> {
    let next = AtomicU64::new(0);
    let all: Mutex<Vec<(u64, Measured)>> = Mutex::default();
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
            let measured = plan_of.run(seed + SEEDS * baseline)?;
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
