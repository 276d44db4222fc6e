//! Postgres after a while: a day of checkpoints of 1,000 monitors on a topic of 16 partitions, judged
//! and tidied up meanwhile. Do the tables level off, and what does a checkpoint cost?
//!
//! The day is compressed: rows are stamped with a clock that goes an hour a round, by which
//! upkeep goes too, and history is kept for twelve hours instead of a year. A window of ten days of
//! event time is judged every hour, so that months are made and dropped as well. Profiles are real,
//! of a stretch of five rows; scores are not computed, what is said of a window is made up.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use driftd::batch::Selection;
use driftd::clock::Clock;
use driftd::embedded::postgres::{Options, Postgres};
use driftd::ingest::reject::{Reason, Rejected};
use driftd::profile::{Profile, encoding};
use driftd::settings::{Retention, environment};
use driftd::store::checkpoints::{Checkpoint, Delta, Outcome, save};
use driftd::store::ripe::Claimed;
use driftd::store::windows::{self, Next, ScoreRow, Window};
use driftd::store::{self, partitions, time_partitions, vacuum};
use driftd::upkeep;
use serde_json::json;
use sqlx::PgPool;

use crate::measure::{bound, process_ns, repeat};
use crate::profile::rows;
use crate::records;

const MONITORS: i64 = 1000;
const PARTITIONS: i32 = 16;
/// Simulated.
const HOURS: i64 = 24;
const WINDOW_DAYS: i64 = 10;
/// Rows that a checkpoint adds to a window of a monitor.
const ROWS: usize = 5;
/// The least that a monitor may have; all rows are among them.
const SAMPLE_ROWS: usize = 100;
const REJECTED: i64 = 5;
const SESSIONS: u32 = 4;

pub(crate) fn run() -> anyhow::Result<()> {
    let bin = environment().find(|(name, _)| name == "DRIFTD_PG_BIN");
    let server = Postgres::start(Options {
        bin: bin.map(|(_, dir)| dir.into()),
        durable: true,
        ..Options::default()
    })?;
    tokio::runtime::Runtime::new()?.block_on(age(&server))
}

/// The profile of a stretch as a checkpoint stores it, with what encoding it costs in nanoseconds.
fn delta() -> anyhow::Result<(Vec<u8>, f64)> {
    let settings = records::settings("localhost:9092", "postgres://localhost/d", SAMPLE_ROWS)?;
    let baseline = std::sync::Arc::new(records::baseline()?);
    let plan = records::topic_plan(&settings.monitors[0], 1, &baseline)?;
    let rows = rows(&plan, ROWS);
    let version = plan.monitors[0].version("1");
    let mut profile = Profile::empty(&version.layout, SAMPLE_ROWS);
    let all = Selection::all(&rows.batch);
    profile.add(&version.layout, &rows.batch, &version.columns, all);
    let from = driftd::profile::sample::Provenance {
        partition: 0,
        hash: driftd::profile::sample::RowHash::new(1, 0),
        event_ms: &rows.event_ms[0],
    };
    let (schema, columns) = (&version.sample_schema, &version.columns);
    let sample = &mut profile.sample;
    sample.add(schema, &rows.batch, columns, all, from);
    let bytes = encoding::encode(&mut profile, true)?;
    let cost = repeat(1, || encoding::encode(&mut profile, true));
    Ok((bytes, cost.median))
}

async fn age(server: &Postgres) -> anyhow::Result<()> {
    let pool = store::connect(&server.url().into(), SESSIONS).await?;
    store::migrate(&pool).await?;
    prepare(&pool).await?;
    let (delta, encode_ns) = delta()?;
    println!(
        "\n### aging: {MONITORS} monitors on {PARTITIONS} partitions, a checkpoint each every hour, {HOURS} h\n"
    );
    println!(
        "A delta has {} bytes. MiB on disk, and rows that vacuum has not removed yet:\n",
        delta.len()
    );
    println!(
        "| hour | deltas waiting | deltas | checkpoints | rejected | history | updated in place | dead rows there | all | time partitions |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let started = Clock::System.now() - chrono::Duration::hours(HOURS + 1);
    let mut spent = Spent::default();
    let mut sizes = Vec::new();
    for hour in 0..HOURS {
        let now = started + chrono::Duration::hours(hour);
        set_time(&pool, now).await?;
        upkeep::tick(&pool, retention(), now).await;
        spent
            .add(&pool, checkpoints(&pool, hour, hour, &delta))
            .await?;
        judge_all(&pool, hour).await?;
        sizes.push(line(&pool, hour + 1).await?);
    }
    spent.tell(encode_ns);
    let most = |sizes: &[f64]| sizes.iter().copied().fold(0.0, f64::max);
    // From the thirteenth hour on everything that is kept for twelve is there.
    let growth = most(&sizes[18..]) / most(&sizes[12..18]);
    let what = "most on disk in the last six hours, times that of the six before, at most 1.1";
    bound(what, growth, growth <= 1.1);
    Ok(())
}

fn retention() -> Retention {
    let kept = Duration::from_secs(12 * 3600);
    Retention {
        history: kept,
        window_profiles: kept,
        checkpoints: kept,
        rejected_messages: kept,
        outbox: kept,
    }
}

/// Monitors, partitions, and a clock that can be set for what is written.
async fn prepare(pool: &PgPool) -> anyhow::Result<()> {
    let statements = "
        create table public.bench_time (at timestamptz);
        insert into public.bench_time values (now());
        create function public.bench_now() returns timestamptz language sql stable
            as 'select at from public.bench_time';
        alter table driftd.profile_deltas alter saved_at set default public.bench_now();
        alter table driftd.checkpoints alter committed_at set default public.bench_now();
        alter table driftd.rejected_messages alter rejected_at set default public.bench_now();
        alter table driftd.windows alter judged_at set default public.bench_now();
        insert into driftd.models (model) values ('bench');
        insert into driftd.monitors (monitor, revision, model, topic, definition, definition_digest, settings)
            select 'bench-' || n, 1, 'bench', 'bench', '{}', '', '{}' from generate_series(1, 1000) n";
    sqlx::raw_sql(statements).execute(pool).await?;
    let all: Vec<i32> = (0..PARTITIONS).collect();
    partitions::take_over(pool, records::NAME, &all, "bench").await?;
    let begin = "update driftd.partition_progress set next_offset = 0, first_offset = 0";
    sqlx::query(begin).execute(pool).await?;
    Ok(())
}

async fn set_time(pool: &PgPool, now: DateTime<Utc>) -> anyhow::Result<()> {
    let set = "update public.bench_time set at = $1";
    sqlx::query(set).bind(now).execute(pool).await?;
    Ok(())
}

fn start_of(window: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(records::START_MS).unwrap_or_default()
        + chrono::Duration::days(WINDOW_DAYS * window)
}

/// One checkpoint of each partition, as many at a time as there are sessions.
async fn checkpoints(pool: &PgPool, round: i64, window: i64, delta: &[u8]) -> anyhow::Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for session in 0..SESSIONS.cast_signed() {
        let mine =
            (0..PARTITIONS).filter(|partition| partition % SESSIONS.cast_signed() == session);
        let stretches = mine.map(|partition| checkpoint(partition, round, window, delta));
        let stretches = stretches.collect::<anyhow::Result<Vec<_>>>()?;
        let pool = pool.clone();
        tasks.spawn(async move {
            for stretch in stretches {
                let saved = save(&pool, &stretch).await?;
                anyhow::ensure!(saved == Outcome::Saved, "a checkpoint was fenced");
            }
            Ok(())
        });
    }
    while let Some(saved) = tasks.join_next().await {
        saved??;
    }
    Ok(())
}

fn checkpoint(partition: i32, round: i64, window: i64, bytes: &[u8]) -> anyhow::Result<Checkpoint> {
    let rows = i64::try_from(ROWS)?;
    let stretch = rows + REJECTED;
    let (first_offset, next_offset) = (round * stretch, (round + 1) * stretch);
    let start = start_of(window);
    let rejected = |offset| Rejected {
        offset,
        monitor: String::new(),
        reason: Reason::Unparsable,
        detail: "expected value at line 1 column 1".into(),
        digest: [7; 32],
        payload_bytes: 500,
        payload: None,
    };
    let delta = |monitor_id| Delta {
        monitor_id,
        version: "1".into(),
        window_start: start,
        window_end: start_of(window + 1),
        baseline_id: None,
        first_offset,
        next_offset,
        rows,
        late: 0,
        keeps_up: false,
        delta: Some(bytes.to_vec()),
    };
    Ok(Checkpoint {
        leader_epoch: Some(0),
        topic: records::NAME.into(),
        partition,
        epoch: 1,
        first_offset,
        next_offset,
        messages: stretch,
        rejected_messages: REJECTED,
        skipped: 0,
        rejected: (first_offset..first_offset + REJECTED)
            .map(rejected)
            .collect(),
        max_event_times: (1..=MONITORS).map(|monitor| (monitor, start)).collect(),
        deltas: (1..=MONITORS).map(delta).collect(),
        idle_since: None,
        idle_confirmed_at: None,
        was_idle: false,
        generation: 1,
        count: None,
        closed_gaps: Vec::new(),
    })
}

async fn judge_all(pool: &PgPool, window: i64) -> anyhow::Result<()> {
    time_partitions::make_month(pool, start_of(window)).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for session in 0..i64::from(SESSIONS) {
        let pool = pool.clone();
        tasks.spawn(async move {
            for monitor in (1..=MONITORS).filter(|monitor| monitor % i64::from(SESSIONS) == session)
            {
                judge(&pool, monitor, window).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(judged) = tasks.join_next().await {
        judged??;
    }
    Ok(())
}

/// Reads the deltas of a window and stores a verdict.
async fn judge(pool: &PgPool, monitor_id: i64, window: i64) -> anyhow::Result<()> {
    let mut transaction = pool.begin().await?;
    let claimed = Claimed {
        monitor_id,
        version: "1".into(),
        window_start: start_of(window),
        next_start: start_of(window),
        is_first: false,
        attempts: 0,
        silence: 0,
        incomplete: false,
        shared: false,
        by_clock: false,
        state: json!({}),
    };
    let deltas = windows::deltas(&mut transaction, &claimed).await?;
    let expected = usize::try_from(PARTITIONS)?;
    anyhow::ensure!(deltas.len() == expected, "{} deltas", deltas.len());
    let judged = Window {
        monitor_id,
        version: "1".into(),
        window_start: start_of(window),
        window_end: start_of(window + 1),
        baseline_id: None,
        rows: deltas.iter().map(|delta| delta.rows).sum(),
        late: 0,
        by_clock: false,
        verdict: "stable",
        decided_by: "tests",
        training_windows: 0,
        features: 25,
        drifted_features: 0,
        drifted_share: 0.0,
        top_features: json!([]),
        offsets: json!([]),
        answers: None,
    };
    let score = |feature: usize| ScoreRow {
        feature: format!("value_{feature:02}"),
        test: "psi".into(),
        statistic: Some(0.01),
        ..ScoreRow::default()
    };
    let scores: Vec<ScoreRow> = (0..25).map(score).collect();
    windows::save(&mut transaction, &judged, &scores, Some(&[1; 1000])).await?;
    let next = Next {
        start: start_of(window + 1),
        end: start_of(window + 2),
        silence: 0,
        unknown_start: None,
        state: json!({}),
    };
    windows::advance(&mut transaction, &claimed, &next).await?;
    transaction.commit().await?;
    Ok(())
}

/// Prints how the tables stand; answers the bytes of all.
async fn line(pool: &PgPool, hour: i64) -> anyhow::Result<f64> {
    let tables = vacuum::tables(pool).await?;
    let sum = |names: &[&str], of: fn(&vacuum::TableState) -> i64| {
        let named = |table: &&vacuum::TableState| names.contains(&table.table_name.as_str());
        tables.iter().filter(named).map(of).sum::<i64>() as f64
    };
    let mib = |names: &[&str]| sum(names, |table| table.bytes) / f64::from(1 << 20);
    let all: i64 = tables.iter().map(|table| table.bytes).sum();
    let history = [
        "windows",
        "drift_scores",
        "drift_contributions",
        "window_profiles",
    ];
    let in_place = ["partition_progress", "watermarks", "window_cursors"];
    let counts = "select (select count(*) from driftd.profile_deltas d join driftd.window_cursors c
            using (monitor_id, version, segment) where c.judged = 0 or d.window_start >= c.next_start),
        (select count(*) from driftd.time_partitions)";
    let (waiting, partitions): (i64, i64) = sqlx::query_as(counts).fetch_one(pool).await?;
    println!(
        "| {hour} | {waiting} | {:.0} | {:.2} | {:.2} | {:.0} | {:.1} | {:.0} | {:.0} | {partitions} |",
        mib(&["profile_deltas"]),
        mib(&["checkpoints"]),
        mib(&["rejected_messages"]),
        mib(&history),
        mib(&in_place),
        sum(&in_place, |table| table.dead_rows),
        all as f64 / f64::from(1 << 20),
    );
    Ok(all as f64)
}

/// CPU time of checkpoints: of this process, and of the sessions of Postgres that it has.
#[derive(Debug, Default)]
struct Spent {
    client_s: f64,
    postgres_s: f64,
}

impl Spent {
    async fn add(
        &mut self,
        pool: &PgPool,
        work: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let before = (process_ns(), sessions_cpu_s(pool).await?);
        work.await?;
        self.client_s += (process_ns() - before.0) / 1e9;
        self.postgres_s += sessions_cpu_s(pool).await? - before.1;
        Ok(())
    }

    fn tell(&self, encode_ns: f64) {
        let checkpoints = (HOURS * i64::from(PARTITIONS)) as f64;
        let monitors = checkpoints * MONITORS as f64;
        println!("\n| what a checkpoint costs | CPU ms | CPU us per monitor |");
        println!("|---|---:|---:|");
        for (what, seconds) in [
            ("Postgres, its sessions", self.postgres_s),
            ("driftd, sending it", self.client_s),
            ("driftd, encoding the profiles", encode_ns * monitors / 1e9),
        ] {
            println!(
                "| {what} | {:.1} | {:.1} |",
                seconds * 1e3 / checkpoints,
                seconds * 1e6 / monitors
            );
        }
    }
}

/// CPU seconds of the sessions so far, of the kernel's account of each process.
async fn sessions_cpu_s(pool: &PgPool) -> anyhow::Result<f64> {
    let sessions = "select pid from pg_stat_activity where application_name = 'driftd'";
    let sessions: Vec<i32> = sqlx::query_scalar(sessions).fetch_all(pool).await?;
    let mut ticks = 0.0;
    for pid in sessions {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, fields) = stat.rsplit_once(')').context("no process name")?;
        // user and system time are fields 14 and 15 of the whole, in hundredths of a second
        let times = fields.split_whitespace().skip(11).take(2);
        ticks += times
            .filter_map(|field| field.parse::<f64>().ok())
            .sum::<f64>();
    }
    Ok(ticks / 100.0)
}
