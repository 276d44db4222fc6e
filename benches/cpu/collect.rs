//! The whole collect half, from Kafka to Postgres, beside what cannot be saved: a consumer that
//! only looks at the same messages, and a parse that keeps nothing.
//!
//! Broker and producer are a child process and Postgres is one anyway, so the CPU time of this
//! process is that of the consuming side: librdkafka's threads, decoding, profiling, encoding.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use driftd::api::Readiness;
use driftd::baseline::Baseline;
use driftd::baseline::import::Imported;
use driftd::clock::Clock;
use driftd::embedded::broker::Broker;
use driftd::embedded::postgres::{Options, Postgres};
use driftd::settings::{Settings, environment};
use driftd::store::monitors;
use driftd::telemetry::metrics;
use driftd::{collect, store};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::decode::bare_parse;
use crate::measure::{Cost, Table, bound, process_ns};
use crate::records;

/// The argument that makes this program the broker and the producer.
pub(crate) const PRODUCE: &str = "produce";
/// The broker keeps 5 MiB of a partition: so many hold all the rows.
const PARTITIONS: i32 = 32;
const ROWS: usize = 300_000;
const REPEATS: usize = 3;
/// All rows happen within so many milliseconds: in one window.
const SPAN_MS: f64 = 3_000_000.0;
/// Sample rows of a window and partition that stand for a busy stream: of a million rows about one
/// in twenty is, for a while, among the ten thousand that are kept. Of these few rows here ten
/// thousand would be all.
const FEW: usize = 100;

pub(crate) fn run() -> anyhow::Result<()> {
    let source = Source::start()?;
    let bin = environment()
        .find(|(name, _)| name == "DRIFTD_PG_BIN")
        .map(|(_, dir)| dir.into());
    let server = Postgres::start(Options {
        bin,
        ..Options::default()
    })?;
    let _prometheus = metrics::install()?;
    let runtime = tokio::runtime::Runtime::new()?;

    let bare = || bare_consumer(&source.brokers);
    let consumer = Cost::of(
        (0..REPEATS)
            .map(|_| bare())
            .collect::<anyhow::Result<_>>()?,
    );
    let payloads = records::payloads(40_000);
    let parse = bare_parse(&payloads);
    let limit = Cost {
        least: consumer.least + parse.least,
        median: consumer.median + parse.median,
    };
    let table = Table::new(
        &format!("collect: {ROWS} rows of 25 features from {PARTITIONS} partitions"),
        "row",
        "bare consumer and bare parse",
        limit,
    );
    table.line("bare consumer", consumer);
    table.line("bare parse", parse);
    let baseline = records::baseline()?;
    let whole = |name: String, sample_rows| {
        runtime.block_on(whole(
            &source.brokers,
            &server,
            &name,
            &baseline,
            sample_rows,
        ))
    };
    let busy = (0..REPEATS).map(|i| whole(format!("busy_{i}"), FEW));
    let busy = Cost::of(busy.collect::<anyhow::Result<_>>()?);
    table.line("collect, a busy stream", busy);
    let sampled = Cost::of(vec![whole("sampled".into(), 100_000)?]);
    table.line("collect, every row into the sample", sampled);
    let ratio = busy.median / limit.median;
    let what = "the collect half at most 2 times bare consumer and bare parse";
    bound(what, ratio, ratio <= 2.0);
    drop(runtime);
    drop(server);
    source.stop()
}

/// CPU nanoseconds per row of all of this process, from the group's assignment to the last
/// checkpoint.
async fn whole(
    brokers: &str,
    server: &Postgres,
    database: &str,
    baseline: &Baseline,
    sample_rows: usize,
) -> anyhow::Result<f64> {
    let admin = store::connect(&server.url().into(), 1).await?;
    let create = format!("create database {database}");
    sqlx::query(sqlx::AssertSqlSafe(create))
        .execute(&admin)
        .await?;
    let settings = records::settings(brokers, &server.url_of(database), sample_rows)?;
    let pool = store::connect(settings.postgres.url(), 9).await?;
    store::migrate(&pool).await?;
    let baseline = baseline.clone();
    let imported = Imported {
        baseline: baseline.clone(),
        slots: None,
        is_held_out: false,
    };
    driftd::baseline::save::save(&pool, imported).await?;
    let mut connection = pool.acquire().await?;
    let monitor = &settings.monitors[0];
    let registered = monitors::register(&mut connection, monitor).await?;
    drop(connection);
    let plan = records::topic_plan(monitor, registered.monitor_id, &Arc::new(baseline))?;

    let stop = CancellationToken::new();
    let options = options(&settings);
    let readiness = Readiness::new(&["kafka"]);
    let task = {
        let (pool, stop, readiness) = (pool.clone(), stop.clone(), readiness.clone());
        tokio::task::spawn_blocking(move || {
            let clock = Arc::new(Clock::System);
            collect::run(options, vec![plan], pool, clock, &readiness, &stop)
        })
    };
    // The broker lets a new group wait for three seconds; from then on all counts.
    readiness.wait().await;
    let begun = process_ns();
    while !task.is_finished() && saved(&pool).await? < i64::try_from(ROWS)? {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.cancel();
    task.await??;
    let took = process_ns() - begun;
    pool.close().await;
    admin.close().await;
    Ok(took / ROWS as f64)
}

fn options(settings: &Settings) -> collect::Options {
    collect::Options {
        kafka: settings.kafka.clone(),
        checkpoint: settings.checkpoint,
        limits: settings.limits,
        on_gap: Default::default(),
        owner: "bench".into(),
        sample_key: 1,
    }
}

async fn saved(pool: &PgPool) -> anyhow::Result<i64> {
    let offsets = "select coalesce(sum(next_offset), 0)::bigint from driftd.partition_progress";
    Ok(sqlx::query_scalar(offsets).fetch_one(pool).await?)
}

/// CPU nanoseconds per row of a consumer with the properties of driftd's that looks at every cache
/// line of every payload.
fn bare_consumer(brokers: &str) -> anyhow::Result<f64> {
    let begun = process_ns();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bare")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.max.messages.kbytes", "65536")
        .set("check.crcs", "true")
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(records::NAME, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (mut rows, mut touched) = (0, 0_u64);
    while rows < ROWS {
        let Some(message) = consumer.poll(Duration::from_millis(20)) else {
            continue;
        };
        let message = message?;
        let payload = message.payload().context("a tombstone")?;
        let lines = payload.iter().step_by(64);
        touched += lines.map(|byte| u64::from(*byte)).sum::<u64>();
        rows += 1;
    }
    std::hint::black_box(touched);
    drop(consumer);
    Ok((process_ns() - begun) / ROWS as f64)
}

/// The child process that holds broker and messages.
struct Source {
    brokers: String,
    child: Child,
    hold: ChildStdin,
}

impl Source {
    fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([PRODUCE, &ROWS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let hold = child.stdin.take().context("no standard input")?;
        let told = child.stdout.take().context("no standard output")?;
        let mut brokers = String::new();
        BufReader::new(told).read_line(&mut brokers)?;
        anyhow::ensure!(!brokers.is_empty(), "the broker did not start");
        let brokers = brokers.trim().to_owned();
        Ok(Self {
            brokers,
            child,
            hold,
        })
    }

    fn stop(mut self) -> anyhow::Result<()> {
        drop(self.hold);
        self.child.wait()?;
        Ok(())
    }
}

/// The child process: a broker with so many messages, until standard input is closed.
pub(crate) fn produce(rows: usize) -> anyhow::Result<()> {
    let broker = Broker::start()?;
    broker.create_topic(records::NAME, PARTITIONS)?;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.brokers())
        .set("compression.type", "lz4")
        .set("linger.ms", "50")
        .set("batch.size", "262144")
        .create()?;
    for (row, partition) in (0..rows).zip((0..PARTITIONS).cycle()) {
        let payload = records::payload(row, SPAN_MS / rows as f64);
        let mut record = BaseRecord::<(), _>::to(records::NAME)
            .partition(partition)
            .payload(&payload);
        while let Err((error, again)) = producer.send(record) {
            let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            anyhow::ensure!(error == full, error);
            producer.poll(Duration::from_millis(10));
            record = again;
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(60))?;
    writeln!(std::io::stdout(), "{}", broker.brokers())?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
