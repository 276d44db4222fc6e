//! Postgres as it ages: tables in time partitions, what retention takes, and who keeps vacuum waiting.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use driftd::store::checkpoints::{Checkpoint, Delta, Outcome, save};
use driftd::store::windows::{self, Claimed};
use driftd::store::{self, monitors, partitions};
use serde_json::json;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, PgPool};

use crate::harness::monitors::streaming;
use crate::harness::postgres;

const DAY_MS: i64 = 86_400_000;

fn day(number: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(number * DAY_MS).unwrap()
}

async fn text(pool: &PgPool, sql: &str) -> String {
    let found: Option<String> = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(pool)
        .await
        .unwrap();
    found.unwrap_or_default()
}

async fn run(pool: &PgPool, sql: &str) {
    let statement = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(statement).execute(pool).await.unwrap();
}

/// What users and the judge see of the rows of [`OLD_ROWS`], before and after.
const SEEN: &str = "select jsonb_build_object(
    'checkpoints', (select jsonb_agg(to_jsonb(c) order by checkpoint_id) from driftd.checkpoints c),
    'rejected', (select jsonb_agg(to_jsonb(r) order by message_offset) from driftd.rejected_messages r),
    'history', (select jsonb_agg(to_jsonb(h) order by window_start, feature) from driftd.drift_history h),
    'latest', (select jsonb_agg(to_jsonb(l)) from driftd.latest_drift l),
    'attribution', (select jsonb_agg(to_jsonb(a)) from driftd.drift_attribution a),
    'profiles', (select jsonb_agg(to_jsonb(p)) from driftd.window_profiles p),
    'windows', (select jsonb_agg(to_jsonb(w) order by window_start) from driftd.windows w),
    'deltas', (select jsonb_agg(to_jsonb(d) - 'saved_at') from driftd.profile_deltas d
        where d.rows > 0),
    'health', (select jsonb_agg(to_jsonb(m) - 'windows_incomplete') from driftd.monitor_health m))::text";

const OLD_ROWS: &str = "
    insert into driftd.models (model) values ('m');
    insert into driftd.monitors (monitor, revision, model, topic, definition, definition_digest, settings)
        values ('m', 1, 'm', 't', '{}', 'x', '{}');
    insert into driftd.window_cursors (monitor_id, version, next_start, last_start, judged)
        values (1, '1', '2013-05-01', '2013-05-01', 2);
    insert into driftd.checkpoints (topic, partition, epoch, first_offset, next_offset, messages,
            rejected, skipped, committed_at)
        select 't', 0, 1, n * 10, n * 10 + 10, 10, 0, 0, now() - n * interval '9 hours'
        from generate_series(0, 300) n;
    insert into driftd.profile_deltas (checkpoint_id, monitor_id, version, window_start, partition,
            first_offset, next_offset, rows, late, delta)
        values (1, 1, '1', '2013-05-01', 0, 0, 10, 7, 1, '\\x01'), (2, 1, '1', '2013-03-01', 0, 10, 20, 0, 2, null),
            (3, 1, '2', '2013-05-02', 0, 20, 30, 0, 3, null);
    insert into driftd.rejected_messages (topic, partition, message_offset, reason, digest, payload_bytes)
        values ('t', 0, 7, 'unparsable', '\\x00', 3);
    insert into driftd.windows (monitor_id, version, window_start, window_end, rows, late, verdict, mode,
            calibrated, features, drifted_features, drifted_share)
        select 1, '1', at, at + interval '1 day', 100, 1, 'drifted', 'thresholds', false, 1, 1, 1
        from unnest(array['2013-03-31'::timestamptz, '2013-04-30']) at;
    insert into driftd.drift_scores (monitor_id, version, segment, window_start, feature, test, rows_window,
            rows_reference, nulls, unseen, drifted)
        select 1, '1', 'all', window_start, 'f', 'psi', 100, 100, 0, 0, true from driftd.windows;
    insert into driftd.drift_contributions (monitor_id, version, window_start, feature, test, rank, bin, contribution)
        select 1, '1', window_start, 'f', 'psi', 1, 'a', 0.5 from driftd.windows;
    insert into driftd.window_profiles (monitor_id, version, segment, window_start, profile)
        select 1, '1', 'all', window_start, '\\x02' from driftd.windows";

#[tokio::test]
async fn a_database_from_before_partitions_keeps_its_rows() {
    const BEFORE: i64 = 20_261_127_100_000;
    let db = postgres::empty().await;
    let pool = &db.pool;
    let mut old: Migrator = sqlx::migrate!();
    old.create_schema(Cow::Borrowed("driftd"));
    old.dangerous_set_table_name("driftd._sqlx_migrations");
    let mut connection = pool.acquire().await.unwrap();
    old.run_direct(Some(BEFORE), &mut *connection, false)
        .await
        .unwrap();
    drop(connection);
    run(pool, OLD_ROWS).await;

    let before = text(pool, SEEN).await;
    assert!(before.len() > 10_000, "{before}");
    assert!(store::migrate(pool).await.unwrap() > 0);
    assert_eq!(text(pool, SEEN).await, before);
    // Late rows of windows that no line comes to are counted, and wait for nothing.
    let apart = "select string_agg(version || ' ' || late, ', ' order by version)
        from driftd.rows_without_window";
    assert_eq!(text(pool, apart).await, "1 2, 2 3");
    let waiting = "select string_agg(window_start::date || ' ' || rows || ' ' || late, ', ')
        from driftd.waiting_rows";
    assert_eq!(text(pool, waiting).await, "2013-05-01 7 1");
    let months = "select string_agg(distinct tableoid::regclass::text, ', ')
        from (select tableoid from driftd.windows union all select tableoid from driftd.drift_scores) x";
    assert_eq!(
        text(pool, months).await,
        "drift_scores_2013_03, drift_scores_2013_04, windows_2013_03, windows_2013_04"
    );
    // A hundred days have partitions of their own; what is older is in the default one.
    let days = "select (count(*) filter (where until_time is not null) = 100
        and (select count(*) > 0 from driftd.checkpoints_default))::text
        from driftd.time_partitions where table_name = 'checkpoints'";
    assert_eq!(text(pool, days).await, "true");
    // The next checkpoint has a number of its own.
    let next = "insert into driftd.checkpoints (topic, partition, epoch, first_offset, next_offset,
            messages, rejected, skipped)
        values ('t', 0, 1, 5000, 5010, 10, 0, 0) returning checkpoint_id::text";
    assert_eq!(text(pool, next).await, "302");
}

// --- late rows, wherever their window is ---------------------------------------------------------

/// A partition of a topic, read from its first offset on.
struct Log<'a> {
    pool: &'a PgPool,
    monitor_id: i64,
    offset: i64,
}

impl<'a> Log<'a> {
    async fn begin(pool: &'a PgPool, monitor: &str) -> Self {
        let mut transaction = pool.begin().await.unwrap();
        let registered = monitors::register(&mut transaction, &streaming(monitor)).await;
        let monitor_id = registered.unwrap().monitor_id;
        partitions::take_over(&mut transaction, "t", 0, "me")
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        Self {
            pool,
            monitor_id,
            offset: 0,
        }
    }

    /// Saves a stretch with rows of one window: so many that count, and so many late ones.
    async fn save(&mut self, version: &str, window: i64, rows: i64, late: i64) {
        let (first, next) = (self.offset, self.offset + rows + late);
        let delta = Delta {
            monitor_id: self.monitor_id,
            version: version.into(),
            window_start: day(window),
            baseline_id: None,
            first_offset: first,
            next_offset: next,
            rows,
            late,
            delta: Some(vec![1; 100]),
        };
        let checkpoint = Checkpoint {
            topic: "t".into(),
            partition: 0,
            epoch: 1,
            expected_offset: if first == 0 { -1 } else { first },
            first_offset: first,
            next_offset: next,
            messages: next - first,
            rejected_messages: 0,
            skipped: 0,
            rejected: Vec::new(),
            max_event_times: vec![(self.monitor_id, day(window))],
            deltas: vec![delta],
            idle_since: None,
            was_idle: false,
        };
        let outcome = save(self.pool, &checkpoint).await.unwrap();
        assert_eq!(outcome, Outcome::Saved);
        self.offset = next;
    }

    /// Judges a window of version 1 by what is stored of it, and steps over those from another on.
    async fn judge(&self, next: i64, window: i64) {
        judge(self.pool, self.monitor_id, next, window)
            .await
            .unwrap();
    }
}

async fn judge(pool: &PgPool, monitor_id: i64, next: i64, window: i64) -> store::Result<()> {
    let mut transaction = pool.begin().await?;
    let claimed = Claimed {
        monitor_id,
        version: "1".into(),
        window_start: day(window),
        next_start: day(next),
        silence: 0,
        incomplete: false,
        state: json!({}),
    };
    let lock = "select from driftd.window_cursors where monitor_id = $1 for update";
    sqlx::query(lock)
        .bind(monitor_id)
        .execute(&mut *transaction)
        .await?;
    let deltas = windows::deltas(&mut transaction, &claimed).await?;
    let judged = windows::Window {
        monitor_id,
        version: "1".into(),
        window_start: day(window),
        window_end: day(window + 1),
        baseline_id: None,
        rows: deltas.iter().map(|delta| delta.rows).sum(),
        late: deltas.iter().map(|delta| delta.late).sum(),
        verdict: "stable",
        mode: "thresholds",
        calibrated: false,
        features: 1,
        drifted_features: 0,
        drifted_share: 0.0,
        top_features: json!([]),
        offsets: json!([]),
    };
    let score = windows::ScoreRow {
        feature: "f".into(),
        test: "psi".into(),
        ..windows::ScoreRow::default()
    };
    windows::save(&mut transaction, &judged, &[score], Some(&[1])).await?;
    windows::count_stepped_over(&mut transaction, &claimed).await?;
    windows::advance(&mut transaction, &claimed, day(window + 1), 0, &json!({})).await?;
    Ok(transaction.commit().await?)
}

/// Rows in windows, late rows there, late rows without a window, rows that wait, late rows that wait.
async fn counted(pool: &PgPool) -> [i64; 5] {
    let sql = "select array[(select coalesce(sum(rows), 0) from driftd.windows),
        (select coalesce(sum(late + late_after_idle), 0) from driftd.windows),
        (select coalesce(sum(late + late_after_idle), 0) from driftd.rows_without_window),
        (select coalesce(sum(rows), 0) from driftd.waiting_rows),
        (select coalesce(sum(late), 0) from driftd.waiting_rows)]::bigint[]";
    let found: Vec<i64> = sqlx::query_scalar(sql).fetch_one(pool).await.unwrap();
    found.try_into().unwrap()
}

#[tokio::test]
async fn late_rows_are_counted_once_wherever_their_window_is() {
    let db = postgres::fresh().await;
    let mut log = Log::begin(&db.pool, "m").await;
    log.save("1", 10, 5, 0).await;
    log.save("1", 11, 5, 0).await;
    log.save("1", 14, 5, 0).await;
    assert_eq!(counted(&db.pool).await, [0, 0, 0, 15, 0]);
    log.judge(10, 10).await;
    assert_eq!(counted(&db.pool).await, [5, 0, 0, 10, 0]);
    log.save("1", 10, 0, 1).await; // of a judged window
    log.save("1", 9, 0, 2).await; // of one before the first
    log.save("1", 12, 0, 4).await; // of one that will be stepped over
    log.save("1", 14, 0, 8).await; // of one that waits
    log.save("2", 14, 0, 16).await; // of a version without a line
    assert_eq!(counted(&db.pool).await, [5, 1, 18, 10, 12]);
    log.judge(11, 11).await;
    assert_eq!(counted(&db.pool).await, [10, 1, 18, 5, 12]);
    log.judge(12, 14).await;
    assert_eq!(counted(&db.pool).await, [15, 9, 22, 0, 0]);
    log.save("1", 12, 0, 32).await; // of one that was stepped over
    assert_eq!(counted(&db.pool).await, [15, 9, 54, 0, 0]);
    assert_eq!(log.offset, 15 + 9 + 54, "every row is in one place");
}
