//! What one replica takes that watches many monitors, each on a topic of its own:
//! `./dev bench many [MONITORS] [PARTITIONS]`.
//!
//! Three Apache Kafka brokers and a Postgres are started for it. `driftd run` is a child process with the
//! settings that an operator would give it. Three phases are measured:
//!
//! - start: from the start of driftd until it has read all rows that were stored before, and judged
//!   all windows that they fill
//! - rows: one row a second to each topic
//! - idle: no rows, after all partitions have become idle
//!
//! CPU time is that of the processes; seconds on the clock say little on a machine that is shared.

#[path = "../common/bound.rs"]
mod bound;
mod folder;
mod kafka;
mod load;
mod monitors;
mod phases;
#[path = "../common/process.rs"]
mod process;
#[path = "../common/replica.rs"]
mod replica;
mod rows;
mod usage;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use driftd::embedded::postgres::{Options, Postgres};
use driftd::settings::environment;
use driftd::store;
use folder::Folder;
use kafka::{Cluster, Place};
use load::{Load, WINDOWS};
use phases::{Phases, Progress, check_bounds};
use replica::Replica;
use rows::Rows;
use usage::{Processes, mib};

/// So long after the last row all partitions are idle (`lateness.idle_after`) and all is saved.
const SETTLE: Duration = Duration::from_secs(75);

/// Memory and CPU of one replica with many monitors.
#[derive(Parser)]
struct Arguments {
    /// Monitors, each with a topic of its own
    #[arg(default_value_t = 100)]
    monitors: usize,
    /// Partitions of each topic
    #[arg(default_value_t = 16)]
    partitions: usize,
    /// Numbers in a row, all of which are watched
    #[arg(long, default_value_t = 21)]
    features: usize,
    /// Rows of training data of each model
    #[arg(long, default_value_t = 2_400)]
    training_rows: usize,
    /// Rows per partition that are stored before driftd starts
    #[arg(long, default_value_t = 200)]
    rows: usize,
    /// Seconds with one row a second to each topic
    #[arg(long, default_value_t = 60)]
    trickle: usize,
    /// Seconds without rows
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Where driftd's log is kept
    #[arg(long)]
    log: Option<PathBuf>,
    /// The folder with the jars of Apache Kafka
    #[arg(long)]
    jars: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run(&Arguments::parse()))
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let (cluster, load) = prepare_topics(arguments, folder.path()).await?;
    let bin = environment().find(|(name, _)| name == "DRIFTD_PG_BIN");
    let server = Postgres::start(Options {
        bin: bin.map(|(_, dir)| dir.into()),
        durable: true,
        ..Options::default()
    })?;
    let pool = store::connect(&server.url().into(), 2).await?;
    store::migrate(&pool).await?;
    let (features, rows) = (arguments.features, arguments.training_rows);
    monitors::import_baselines(&pool, features, rows, folder.path()).await?;
    let config = folder.path().join("driftd.toml");
    let settings = monitors::settings(cluster.servers(), &server.url(), arguments.monitors);
    fs::write(&config, settings)?;

    let in_folder = folder.path().join("driftd.log");
    let log = arguments.log.as_ref().unwrap_or(&in_folder);
    let replica = Replica::start(&config.display().to_string(), log, "info")?;
    let processes = Processes {
        driftd: replica.pid(),
        postgres: usage::postmaster(&pool).await?,
        brokers: cluster.pids(),
    };
    let phases = Phases {
        replica,
        processes,
        pool,
        peak: 0.0,
    };
    let measured = measure(arguments, &load, phases).await;
    tell_log(log)?;
    measured
}

/// Starts brokers with all topics, and stores rows on them.
async fn prepare_topics(arguments: &Arguments, dir: &Path) -> anyhow::Result<(Cluster, Load)> {
    let Arguments {
        monitors,
        partitions,
        features,
        rows,
        jars,
        ..
    } = arguments;
    let all = monitors * partitions;
    let mut cluster = Cluster::start(&Place { jars, dir }, all)?;
    let topics: Vec<String> = (0..*monitors).map(monitors::name).collect();
    let begun = Instant::now();
    cluster.create_topics(&topics, *partitions).await?;
    eprintln!("{all} partitions were made in {:.0} s", seconds(begun));
    let begun = Instant::now();
    let load = Load {
        servers: cluster.servers().to_owned(),
        topics,
        partitions: *partitions,
        rows: Rows::new(*features),
    };
    load.store(*rows)?;
    eprintln!(
        "{} rows were stored in {:.0} s",
        all * (rows + 1),
        seconds(begun)
    );
    for pid in cluster.pids() {
        let files = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        eprintln!(
            "a broker: {:.0} MiB of memory, {files} files open, {} mapped regions",
            mib(pid, "status", "VmRSS:")?,
            maps.lines().count()
        );
    }
    Ok((cluster, load))
}

async fn measure(arguments: &Arguments, load: &Load, mut phases: Phases) -> anyhow::Result<()> {
    let (monitors, partitions) = (arguments.monitors, arguments.partitions);
    let stored = monitors * partitions * (arguments.rows + 1);
    println!(
        "\n### many: {monitors} monitors on {partitions} partitions each, {} features, {stored} rows stored\n",
        arguments.features
    );
    Phases::print_header();

    let begun = phases.begin().await?;
    let wanted = Progress {
        judged: i64::try_from(monitors * WINDOWS)?,
        saved: i64::try_from(stored)?,
    };
    let reached = phases.wait_for(wanted).await;
    phases.end("start", begun).await?;
    reached?;

    let begun = phases.begin().await?;
    load.trickle(arguments.trickle)?;
    phases.end("rows", begun).await?;

    tokio::time::sleep(SETTLE).await;
    let begun = phases.begin().await?;
    tokio::time::sleep(Duration::from_secs(arguments.idle)).await;
    let idle = phases.end("idle", begun).await?;

    let all = stored + arguments.trickle * monitors;
    let saved = phases.progress().await?.saved;
    bound::bound(
        &format!("rows read and saved in the end, all {all}"),
        saved as f64,
        usize::try_from(saved)? == all,
    );
    check_bounds(monitors, partitions, phases.peak, idle);
    Ok(())
}

/// What driftd complained of.
fn tell_log(log: &Path) -> anyhow::Result<()> {
    const TOLD: usize = 10;
    let text = fs::read_to_string(log).context("driftd's log")?;
    let bad = |line: &&str| line.contains(" WARN ") || line.contains("ERROR ");
    let lines: Vec<&str> = text.lines().filter(bad).collect();
    println!("\n{} warnings and errors in driftd's log", lines.len());
    for line in lines.iter().take(TOLD) {
        println!("    {line}");
    }
    Ok(())
}

fn seconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64()
}
