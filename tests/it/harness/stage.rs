//! Everything that `driftd run` needs around it: a database with a baseline, a topic, a settings
//! file; and what came of it, read from the tables.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use driftd::embedded::broker::Broker;
use sqlx::{AssertSqlSafe, PgPool};
use tempfile::TempDir;

use super::daemon::{Daemon, driftd};
use super::kafka::Kafka;
use super::postgres::{self, TestDb};
use super::reference::{ALPHA, CREDIT, FEATURES, LIMITS, MIN_ROWS, RESOLVE_AFTER, Watch};
use super::traffic::{self, ALLOWED_MS, MAX_FUTURE_MS, OUT_OF_ORDERNESS_MS, PARTITIONS};
use super::until;

/// The seed of the training data.
const BASELINE: u64 = 2013;

/// The broker that the tests of this binary share; it goes when the process ends.
pub(crate) fn broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(|| Broker::start().unwrap())
}

/// A name that no other test uses.
pub(crate) fn fresh_topic() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    format!("inputs-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A topic on the shared broker.
pub(crate) fn mock_topic() -> String {
    let topic = fresh_topic();
    broker().create_topic(&topic, PARTITIONS).unwrap();
    topic
}

/// What is written into the settings file.
#[derive(Debug, Clone)]
pub(crate) struct Knobs {
    pub(crate) brokers: String,
    pub(crate) topic: String,
    pub(crate) start_at: &'static str,
    /// Long: nothing is left to the clock. Short: partitions that have ended hold nothing back.
    pub(crate) idle_after: &'static str,
    /// The monitors of the topic, the one that asks for retraining first.
    pub(crate) watches: &'static [Watch],
}

impl Knobs {
    /// On the shared broker, with everything decided by event time.
    pub(crate) fn mock(topic: &str) -> Self {
        Self {
            brokers: broker().brokers(),
            topic: topic.to_owned(),
            start_at: "earliest",
            idle_after: "1h",
            watches: &[CREDIT],
        }
    }
}

/// How members of a group agree among themselves. A member that was killed is missed soon. Less
/// than the three seconds for which the mock cluster waits for a group to gather, and it would miss
/// members that wait with it.
pub(crate) const CLASSIC: &str = "\"session.timeout.ms\" = 4000\n\"heartbeat.interval.ms\" = 300\n";
/// The brokers assign; the same timeouts are in the broker's own settings.
pub(crate) const BY_BROKERS: &str = "\"group.protocol\" = \"consumer\"\n";

/// A topic of so many partitions on an Apache Kafka broker.
pub(crate) async fn kafka_topic(kafka: &Kafka, partitions: i32) -> Knobs {
    let topic = fresh_topic();
    kafka.create_topic(&topic, partitions).await;
    Knobs {
        brokers: kafka.brokers().to_owned(),
        ..Knobs::mock(&topic)
    }
}

/// A database with a baseline, and settings that name both.
pub(crate) struct Stage {
    pub(crate) db: TestDb,
    pub(crate) config: PathBuf,
    pub(crate) baseline_csv: String,
    topic: String,
    _dir: TempDir,
}

impl Stage {
    /// Sets it up with the commands that users have.
    pub(crate) async fn set(knobs: &Knobs) -> Self {
        Self::set_on(postgres::fresh().await, knobs)
    }

    /// The same on a migrated database of the test's own.
    pub(crate) fn set_on(db: TestDb, knobs: &Knobs) -> Self {
        let stage = Self::on(db, knobs);
        stage.import_baseline();
        stage
    }

    /// The same from a copy, which is made once: for tests that need many.
    #[cfg(feature = "failpoints")]
    pub(crate) async fn copy(knobs: &Knobs) -> Self {
        let prepare = async |db: &TestDb| {
            let db = TestDb {
                pool: db.pool.clone(),
                url: db.url.clone(),
            };
            Self::on(db, knobs).import_baseline();
        };
        Self::on(
            postgres::fresh_with("template_credit", prepare).await,
            knobs,
        )
    }

    fn import_baseline(&self) {
        let training = self.config.with_file_name("training.csv");
        std::fs::write(&training, &self.baseline_csv).unwrap();
        let (config, training) = (self.config.to_str().unwrap(), training.to_str().unwrap());
        let imported = driftd(&[
            "baseline",
            "import",
            "--config",
            config,
            "--model",
            "credit",
            "--version",
            "1",
            "--from",
            training,
            "--kind",
            "country=categorical",
        ]);
        let said = String::from_utf8_lossy(&imported.stderr);
        assert!(imported.status.success(), "{said}");
    }

    /// Settings for a database, without a baseline in it.
    pub(crate) fn on(db: TestDb, knobs: &Knobs) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("driftd-e2e.")
            .tempdir()
            .unwrap();
        let config = dir.path().join("driftd.toml");
        std::fs::write(&config, settings(knobs, &db.url)).unwrap();
        Self {
            db,
            config,
            baseline_csv: traffic::baseline_csv(BASELINE),
            topic: knobs.topic.clone(),
            _dir: dir,
        }
    }

    /// Gives the Kafka client other properties than those of the classic protocol.
    pub(crate) fn set_properties(&self, properties: &str) {
        self.rewrite(CLASSIC, properties);
    }

    /// Changes the settings file.
    pub(crate) fn rewrite(&self, from: &str, to: &str) {
        let settings = std::fs::read_to_string(&self.config).unwrap();
        assert!(settings.contains(from), "{from} is not in\n{settings}");
        std::fs::write(&self.config, settings.replace(from, to)).unwrap();
    }

    /// Waits until a topic stands still for a reason that holds these words, and everything else of
    /// driftd goes on.
    pub(crate) async fn topic_fails(&self, daemon: &mut Daemon, words: &str) {
        let sql = "select count(*) from driftd.failures where kind = 'topic' and reason ~ $1";
        until("the topic is reported", async || {
            let count = sqlx::query_scalar::<_, i64>(sql).bind(words);
            count.fetch_one(&self.db.pool).await.unwrap() == 1
        })
        .await;
        until("it says so, and is ready", async || {
            assert!(daemon.is_running(), "{}", daemon.log());
            let ready = daemon.get("/readyz").map(|(status, _)| status);
            daemon.log().contains(words) && ready == Some(200)
        })
        .await;
    }

    /// Waits until so many messages are saved.
    pub(crate) async fn saved(&self, messages: usize) {
        until(&format!("{messages} messages are saved"), async || {
            self.count("select coalesce(sum(messages), 0)::bigint from driftd.checkpoints")
                .await
                == i64::try_from(messages).unwrap()
        })
        .await;
    }

    /// Waits until so many windows are judged.
    pub(crate) async fn judged(&self, windows: usize) {
        until(&format!("{windows} windows are judged"), async || {
            self.count("select count(*) from driftd.windows").await
                == i64::try_from(windows).unwrap()
        })
        .await;
    }

    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(&self.db.pool)
            .await
            .unwrap()
    }

    /// What must not depend on when anything happened: every table of results, a line a row,
    /// without keys and clock times, and without what only the clock has decided.
    pub(crate) async fn results(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for sql in RESULTS {
            let rows: Vec<String> = sqlx::query_scalar(sql)
                .fetch_all(&self.db.pool)
                .await
                .unwrap();
            lines.extend(rows);
        }
        lines
    }

    /// The invariants: the checkpoints of each partition are gapless from its first to its stored
    /// offset, and every message is read, rejected or skipped.
    pub(crate) async fn check_coverage(&self, first: &[i64], messages: &[i64]) {
        for (partition, (first, messages)) in (0..).zip(first.iter().zip(messages)) {
            let sql = "select first_offset, next_offset, messages from driftd.checkpoints
                where topic = $1 and partition = $2 order by checkpoint_id";
            let stretches: Vec<(i64, i64, i64)> = sqlx::query_as(sql)
                .bind(&self.topic)
                .bind(partition)
                .fetch_all(&self.db.pool)
                .await
                .unwrap();
            let mut next = *first;
            for (from, to, read) in stretches {
                assert_eq!(from, next, "a gap or an overlap in partition {partition}");
                assert_eq!(read, to - from, "partition {partition} from {from} to {to}");
                next = to;
            }
            assert_eq!(
                next, *messages,
                "partition {partition} was not read to its end"
            );
            let sql = "select first_offset, next_offset from driftd.partition_progress
                where topic = $1 and partition = $2";
            let stored: (i64, i64) = sqlx::query_as(sql)
                .bind(&self.topic)
                .bind(partition)
                .fetch_one(&self.db.pool)
                .await
                .unwrap();
            assert_eq!(stored, (*first, next));
        }
    }
}

const RESULTS: [&str; 10] = [
    "select 'window ' || monitor || ' ' || (to_jsonb(w) - 'monitor_id' - 'judged_at')::text
     from driftd.windows w join driftd.monitors using (monitor_id)
     where not by_clock order by monitor, version, segment, window_start",
    "select 'score ' || monitor || ' ' || (to_jsonb(s) - 'monitor_id')::text
     from driftd.drift_scores s join driftd.monitors using (monitor_id)
         join driftd.windows w using (monitor_id, version, segment, window_start)
     where not by_clock order by monitor, version, segment, window_start, feature, reference, test",
    "select 'contribution ' || monitor || ' ' || (to_jsonb(c) - 'monitor_id')::text
     from driftd.drift_contributions c join driftd.monitors using (monitor_id)
         join driftd.windows w using (monitor_id, version, segment, window_start)
     where not by_clock order by monitor, version, segment, window_start, feature, reference, test, rank",
    "select 'profile ' || monitor || ' ' || version || ' ' || window_start || ' '
         || encode(sha256(profile), 'hex')
     from driftd.window_profiles join driftd.monitors using (monitor_id)
         join driftd.windows w using (monitor_id, version, segment, window_start)
     where not by_clock order by monitor, version, segment, window_start",
    "select 'episode ' || (to_jsonb(e) - 'monitor_id' - 'episode_id' - 'opened_at' - 'resolved_at'
         - 'silent_since')::text
     from driftd.alert_episodes e where not by_clock order by monitor, first_window, kind",
    "select 'event ' || concat_ws(' ', monitor, episode_kind, v.kind, v.window_start, v.detail)
     from driftd.alert_events v join driftd.alert_episodes e using (episode_id)
     where not by_clock and not exists (select from driftd.windows w
         where w.monitor_id = e.monitor_id and w.version = e.version and w.by_clock
             and w.window_start = v.window_start)
     order by monitor, v.window_start, episode_kind, v.kind",
    "select 'message ' || o.kind || ' ' || (payload - 'episode_id' - 'job_id')::text
     from driftd.outbox o
         join driftd.alert_episodes e on e.episode_id = (payload ->> 'episode_id')::bigint
     where o.kind like 'alert%' and not e.by_clock
     order by payload->>'monitor', outbox_id",
    "select 'job ' || jsonb_build_array(model, version, monitor, state, priority, attempt,
         max_attempts, baseline_id, parameters, training_data - 'topic',
         (select jsonb_agg(reason - 'at' - 'episode_id') from jsonb_array_elements(reasons) reason))::text
     from driftd.retraining_jobs order by job_id",
    "select 'trigger ' || jsonb_build_array(t.kind, t.outcome, t.guard, e.first_window)::text
     from driftd.retraining_triggers t join driftd.alert_episodes e using (episode_id)
     order by e.first_window",
    "select 'rejected ' || (to_jsonb(r) - 'rejected_at' - 'topic')::text from driftd.rejected_messages r
     order by partition, message_offset, monitor",
];

/// Makes the next `insert` into a table wait until the lock is let go.
pub(crate) async fn hold(pool: &PgPool, table: &str) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut lock = pool.begin().await.unwrap();
    let statement = format!("lock table driftd.{table} in exclusive mode");
    sqlx::query(AssertSqlSafe(statement))
        .execute(&mut *lock)
        .await
        .unwrap();
    lock
}

/// Whether anybody waits for such a lock.
pub(crate) async fn is_held_up(pool: &PgPool, table: &str) -> bool {
    let sql = "select exists (select from pg_locks
        where not granted and relation = ('driftd.' || $1)::regclass)";
    sqlx::query_scalar(sql)
        .bind(table)
        .fetch_one(pool)
        .await
        .unwrap()
}

fn settings(knobs: &Knobs, postgres_url: &str) -> String {
    let Knobs {
        brokers,
        topic,
        start_at,
        ..
    } = knobs;
    let monitors: String = knobs
        .watches
        .iter()
        .map(|watch| monitor(knobs, watch))
        .collect();
    format!(
        r#"
[kafka]
brokers = "{brokers}"
group = "driftd-{topic}"
start_at = "{start_at}"
[kafka.properties]
{CLASSIC}[postgres]
url = "{postgres_url}"
max_connections = 6
[service]
grace = "20s"
[checkpoint]
min_interval = "100ms"
max_interval = "500ms"
{monitors}"#
    )
}

fn monitor(knobs: &Knobs, watch: &Watch) -> String {
    let Knobs {
        topic, idle_after, ..
    } = knobs;
    let Watch {
        name,
        size_ms,
        every_ms,
    } = watch;
    let features: Vec<&str> = FEATURES.iter().map(|(name, _)| *name).collect();
    let limits = LIMITS.map(|(test, effect)| {
        let decides = test != "chi2";
        format!("{test} = {{ effect = {effect:?}, decides = {decides} }}")
    });
    let limits = limits.join("\n");
    let window = match watch.windows_per_row() {
        1 => format!("\"{size_ms}ms\""),
        _ => format!("{{ size = \"{size_ms}ms\", every = \"{every_ms}ms\" }}"),
    };
    let asks = *watch == CREDIT;
    // As many as make the tests decide at this level in every window.
    let max = ALPHA * 30.0 * 86_400_000.0 / *every_ms as f64;
    format!(
        r#"
[[monitors]]
name = "{name}"
topic = "{topic}"
model = "credit"
version = "1"
timestamp = "at"
features = {features:?}
window = {window}
false_alarms = {{ max = {max}, per = "30d" }}
min_rows = {MIN_ROWS}
[monitors.tests]
{limits}
[monitors.lateness]
out_of_orderness = "{OUT_OF_ORDERNESS_MS}ms"
allowed = "{ALLOWED_MS}ms"
idle_after = "{idle_after}"
max_future = "{MAX_FUTURE_MS}ms"
[monitors.alert]
windows = 1
of = 1
resolve_after = {RESOLVE_AFTER}
[monitors.retraining]
on_drift = {asks}
cooldown = "1d"
"#
    )
}
