//! What a group of replicas costs and does: 1, 2 and 4 `driftd run` over the same 16 partitions and
//! four monitors, each with a database of its own, until every window has its verdict.
//!
//! `./dev bench replicas`. The rows come in one burst when the partitions are shared out. CPU
//! seconds are user and system time of the driftd processes alone, from the burst to the last
//! verdict; the broker, the producer and Postgres run on the same cores, which is what wall time
//! shows where there are few of them.

#[path = "../common/process.rs"]
mod process;
#[path = "../common/replica.rs"]
mod replica;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use driftd::embedded::broker::Broker;
use driftd::embedded::postgres::{Options, Postgres};
use driftd::settings::environment;
use driftd::store;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use replica::{Replica, driftd};
use sqlx::PgPool;

const PARTITIONS: i32 = 16;
const MONITORS: i64 = 4;
const WINDOWS: i64 = 48;
const WINDOW_MS: i64 = 3_600_000;
const ROWS: i64 = 240_000;
const TRAINING_ROWS: i64 = 20_000;
const START_MS: i64 = 1_700_000_400_000 - 1_700_000_400_000 % WINDOW_MS;
/// Gives up where nothing comes any more.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> anyhow::Result<()> {
    let bin = environment()
        .find(|(name, _)| name == "DRIFTD_PG_BIN")
        .map(|(_, dir)| dir.into());
    let server = Postgres::start(Options {
        bin,
        ..Options::default()
    })?;
    let broker = Broker::start()?;
    let rows: Vec<String> = (0..ROWS)
        .map(|i| row(i, i * WINDOWS * WINDOW_MS / ROWS))
        .collect();
    let runtime = tokio::runtime::Runtime::new()?;
    println!(
        "\n### replicas: {ROWS} rows over {PARTITIONS} partitions, {MONITORS} monitors of {WINDOWS} windows\n"
    );
    println!(
        "| replicas | CPU s | rows per CPU s | windows per CPU s | wall s | windows/s | judged by each |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---|");
    for replicas in [1, 2, 4] {
        runtime.block_on(measure(&server, &broker, replicas, &rows))?;
    }
    Ok(())
}

/// One group from an empty topic to its last verdict.
async fn measure(
    server: &Postgres,
    broker: &Broker,
    replicas: usize,
    rows: &[String],
) -> anyhow::Result<()> {
    let name = format!("replicas_{replicas}");
    broker.create_topic(&name, PARTITIONS)?;
    let dir = tempfile::tempdir()?;
    let (pool, config) = prepare(server, &broker.brokers(), &name, dir.path()).await?;
    let mut group: Vec<Replica> = (0..replicas)
        .map(|i| Replica::start(&config, &dir.path().join(format!("log.{i}")), "warn"))
        .collect::<anyhow::Result<_>>()?;
    let share = f64::from(PARTITIONS) / replicas as f64;
    wait("the partitions are shared out", async || {
        let assigned =
            |one: &Replica| (one.metric("driftd_assigned_partitions") - share).abs() < 0.5;
        Ok(group.iter().all(assigned))
    })
    .await?;

    let (cpu, begun) = (cpu_seconds(&group)?, Instant::now());
    produce(&broker.brokers(), &name, rows)?;
    let windows = MONITORS * WINDOWS;
    wait("all windows are judged", async || {
        group.iter_mut().try_for_each(Replica::check)?;
        let sql = "select count(*) from driftd.windows";
        let judged: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await?;
        Ok(judged == windows)
    })
    .await?;
    let (cpu, wall) = (cpu_seconds(&group)? - cpu, begun.elapsed().as_secs_f64());
    let counted = "select sum(rows)::bigint from driftd.windows";
    let counted: i64 = sqlx::query_scalar(counted).fetch_one(&pool).await?;
    ensure!(counted == MONITORS * ROWS, "{counted} rows were counted");
    let judged: Vec<String> = group
        .iter()
        .map(|one| one.metric("driftd_windows_judged_total").to_string())
        .collect();
    println!(
        "| {replicas} | {cpu:.1} | {:.0} | {:.1} | {wall:.1} | {:.1} | {} |",
        ROWS as f64 / cpu,
        windows as f64 / cpu,
        windows as f64 / wall,
        judged.join(", ")
    );
    pool.close().await;
    Ok(())
}

/// A database with a baseline, and settings that name it.
async fn prepare(
    server: &Postgres,
    brokers: &str,
    name: &str,
    dir: &Path,
) -> anyhow::Result<(PgPool, String)> {
    let admin = store::connect(&server.url().into(), 1).await?;
    let create = format!("create database {name}");
    sqlx::query(sqlx::AssertSqlSafe(create))
        .execute(&admin)
        .await?;
    let url = server.url_of(name);
    let pool = store::connect(&url.as_str().into(), 2).await?;
    store::migrate(&pool).await?;
    let config = dir.join("driftd.toml");
    std::fs::write(&config, settings(brokers, name, &url))?;
    let training = dir.join("training.ndjson");
    let rows: Vec<String> = (0..TRAINING_ROWS)
        .map(|i| row(i - TRAINING_ROWS, 0))
        .collect();
    std::fs::write(&training, rows.join("\n"))?;
    let config = config.display().to_string();
    let mut import = Command::new(driftd()?);
    import.args(["baseline", "import", "--model", "bench", "--version", "1"]);
    import.args(["--config", &config, "--from"]).arg(&training);
    import.args(["--exclude", "at"]);
    let imported = import.output()?;
    let said = String::from_utf8_lossy(&imported.stderr);
    ensure!(imported.status.success(), "{said}");
    Ok((pool, config))
}

fn settings(brokers: &str, name: &str, url: &str) -> String {
    let mut text = format!(
        "[kafka]\nbrokers = \"{brokers}\"\ngroup = \"{name}\"\n[postgres]\nurl = \"{url}\"\n\
         [defaults]\nversion = \"1\"\ntimestamp = \"at\"\nwindow = \"{WINDOW_MS}ms\"\n\
         lateness = {{ out_of_orderness = \"1m\", allowed = \"0s\", idle_after = \"1h\", max_future = \"1d\" }}\n"
    );
    for monitor in 0..MONITORS {
        text += &format!(
            "[[monitors]]\nname = \"bench-{monitor}\"\ntopic = \"{name}\"\nmodel = \"bench\"\n"
        );
    }
    text
}

/// Row `i`: 12 numbers and 4 labels, about 300 bytes of JSON, so long after the start.
fn row(i: i64, after_ms: i64) -> String {
    let mut state = i.unsigned_abs().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut unit = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 24)
    };
    let mut text = format!("{{\"at\":{}", START_MS + after_ms);
    for field in 0..12 {
        text += &format!(
            ",\"value_{field:02}\":{:.4}",
            100.0 * (unit() + unit() + unit())
        );
    }
    for field in 0..4 {
        let level = (unit() * unit() * 12.0).floor();
        text += &format!(",\"label_{field}\":\"level{level:02}\"");
    }
    text + "}"
}

/// All rows, and one more per partition that closes every window.
fn produce(brokers: &str, topic: &str, rows: &[String]) -> anyhow::Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("compression.type", "lz4")
        .set("linger.ms", "20")
        .create()?;
    let closer = row(0, WINDOWS * WINDOW_MS + WINDOW_MS / 2);
    let closers = std::iter::repeat_n(&closer, usize::try_from(PARTITIONS)?);
    for (row, partition) in rows.iter().chain(closers).zip((0..PARTITIONS).cycle()) {
        let record_ms = START_MS + WINDOWS * WINDOW_MS;
        let mut record = BaseRecord::<(), _>::to(topic)
            .partition(partition)
            .timestamp(record_ms)
            .payload(row);
        while let Err((error, again)) = producer.send(record) {
            let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            ensure!(error == full, error);
            producer.poll(Duration::from_millis(10));
            record = again;
        }
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(())
}

async fn wait(
    what: &str,
    mut holds: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !holds().await? {
        ensure!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// User and system time of all of a group's processes so far.
fn cpu_seconds(group: &[Replica]) -> anyhow::Result<f64> {
    group
        .iter()
        .map(|one| process::cpu_seconds(one.pid()))
        .sum()
}
