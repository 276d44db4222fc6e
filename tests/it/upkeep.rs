//! Postgres as it ages: tables in time partitions, what retention takes, and who keeps vacuum waiting.

use std::borrow::Cow;
use std::time::Duration;

use chrono::{DateTime, Utc};
use driftd::clock::Clock;
use driftd::settings::Retention;
use driftd::store::checkpoints::{Checkpoint, Delta, Outcome, save};
use driftd::store::rejected::Rejected;
use driftd::store::ripe::Claimed;
use driftd::store::windows;
use driftd::store::{self, monitors, time_partitions, upkeep};
use serde_json::json;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, PgPool};
use tokio_util::sync::CancellationToken;

use crate::harness::daemon::Daemon;
use crate::harness::monitors::streaming;
use crate::harness::reference::Reference;
use crate::harness::stage::{Knobs, Stage, mock_topic};
use crate::harness::traffic::{messages, produce, story};
use crate::harness::until;
use crate::harness::{lines, postgres};

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
    'history', (select jsonb_agg(to_jsonb(h) - '{by_clock,mode,calibrated,decided_by,training_windows,answers,threshold_origin,threshold_slow,sentence,p_limit,p_limit_origin,question,stretch_windows,stretch_start,drifted_since,expected_value,found_value,training_effect}'::text[] order by window_start, feature) from driftd.drift_history h),
    'latest', (select jsonb_agg(to_jsonb(l) - '{by_clock,mode,calibrated,decided_by,training_windows,answers,threshold_origin,threshold_slow,sentence,p_limit,p_limit_origin,question,stretch_windows,stretch_start,drifted_since,expected_value,found_value,training_effect}'::text[]) from driftd.latest_drift l),
    'attribution', (select jsonb_agg(to_jsonb(a)) from driftd.drift_attribution a),
    'profiles', (select jsonb_agg(to_jsonb(p)) from driftd.window_profiles p),
    'windows', (select jsonb_agg(to_jsonb(w) - '{by_clock,mode,calibrated,decided_by,training_windows,answers,threshold_origin,threshold_slow,sentence,p_limit,p_limit_origin,question,stretch_windows,stretch_start,drifted_since,expected_value,found_value,training_effect}'::text[] order by window_start) from driftd.windows w),
    'deltas', (select jsonb_agg(to_jsonb(d) - 'saved_at') from driftd.profile_deltas d
        where d.rows > 0),
    'health', (select jsonb_agg(to_jsonb(m) - '{windows_incomplete,last_by_clock,silent_since,time_zone,state,failure}'::text[])
        from driftd.monitor_health m))::text";

const OLD_ROWS: &str = "
    insert into driftd.models (model) values ('m');
    insert into driftd.monitors (monitor, revision, model, topic, definition, definition_digest, settings)
        values ('m', 1, 'm', 't', '{}', 'x', '{\"input\": {\"window\": {\"size_ms\": 86400000}}}');
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
    partition: i32,
    offset: i64,
}

impl<'a> Log<'a> {
    async fn begin(pool: &'a PgPool, monitor: &str) -> Self {
        Self::begin_at(pool, monitor, 0).await
    }

    async fn begin_at(pool: &'a PgPool, monitor: &str, partition: i32) -> Self {
        let mut transaction = pool.begin().await.unwrap();
        let registered = monitors::register(&mut transaction, &streaming(monitor)).await;
        let monitor_id = registered.unwrap().monitor_id;
        transaction.commit().await.unwrap();
        lines::take_over(pool, "t", partition, "me").await;
        Self {
            pool,
            monitor_id,
            partition,
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
            window_end: day(window + 1),
            baseline_id: None,
            first_offset: first,
            next_offset: next,
            rows,
            late,
            keeps_up: false,
            delta: Some(vec![1; 100]),
        };
        let checkpoint = Checkpoint {
            leader_epoch: None,
            topic: "t".into(),
            partition: self.partition,
            epoch: 1,
            first_offset: first,
            next_offset: next,
            generation: 1,
            count: None,
            closed_gaps: Vec::new(),
            messages: next - first,
            rejected_messages: 0,
            skipped: 0,
            rejected: Vec::new(),
            max_event_times: vec![(self.monitor_id, day(window))],
            deltas: vec![delta],
            idle_since: None,
            idle_confirmed_at: None,
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

fn claimed(monitor_id: i64, next: i64, window: i64) -> Claimed {
    Claimed {
        monitor_id,
        version: "1".into(),
        window_start: day(window),
        next_start: day(next),
        is_first: false,
        attempts: 0,
        silence: 0,
        incomplete: false,
        shared: false,
        by_clock: false,
        state: json!({}),
    }
}

async fn judge(pool: &PgPool, monitor_id: i64, next: i64, window: i64) -> store::Result<()> {
    let mut transaction = pool.begin().await?;
    let claimed = claimed(monitor_id, next, window);
    let lock = "select judged = 0 from driftd.window_cursors
        where monitor_id = $1 and version = '1' for update";
    let is_first: bool = sqlx::query_scalar(lock)
        .bind(monitor_id)
        .fetch_one(&mut *transaction)
        .await?;
    let claimed = Claimed {
        is_first,
        ..claimed
    };
    let deltas = windows::deltas(&mut transaction, &claimed).await?;
    let judged = windows::Window {
        monitor_id,
        version: "1".into(),
        window_start: day(window),
        window_end: day(window + 1),
        baseline_id: None,
        rows: deltas.iter().map(|delta| delta.rows).sum(),
        late: deltas.iter().map(|delta| delta.late).sum(),
        by_clock: false,
        verdict: "stable",
        decided_by: "tests",
        training_windows: 0,
        features: 1,
        drifted_features: 0,
        drifted_share: 0.0,
        top_features: json!([]),
        offsets: json!([]),
        answers: None,
    };
    let score = windows::ScoreRow {
        feature: "f".into(),
        test: "psi".into(),
        ..windows::ScoreRow::default()
    };
    windows::save(&mut transaction, &judged, &[score], Some(&[1])).await?;
    windows::count_stepped_over(&mut transaction, &claimed).await?;
    let next = windows::Next {
        start: day(window + 1),
        end: day(window + 2),
        silence: 0,
        unknown_start: None,
        state: json!({}),
    };
    windows::advance(&mut transaction, &claimed, &next).await?;
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
    assert_eq!(counted(&db.pool).await, [5, 1, 2, 10, 28]);
    log.judge(11, 11).await;
    assert_eq!(counted(&db.pool).await, [10, 1, 2, 5, 28]);
    log.judge(12, 14).await;
    assert_eq!(counted(&db.pool).await, [15, 9, 6, 0, 16]);
    log.save("1", 12, 0, 32).await; // of one that was stepped over
    assert_eq!(counted(&db.pool).await, [15, 9, 38, 0, 16]);
    assert_eq!(log.offset, 15 + 9 + 38 + 16, "every row is in one place");
}

/// Where a line begins is known when its first window is judged: a partition that is read later may
/// bring earlier rows. Late rows are counted where their window is, whichever was saved first.
#[tokio::test]
async fn late_rows_of_first_windows_are_counted_on_them_in_any_order() {
    let db = postgres::fresh().await;
    let time = Time::take(&db.pool).await;
    let mut log = Log::begin(&db.pool, "m").await;
    tick(&db.pool, time.ago(30).await).await;
    log.save("1", 10, 0, 1).await; // before there is a line
    log.save("1", 9, 0, 2).await; // before its first window, as it will turn out
    assert_eq!(counted(&db.pool).await, [0, 0, 0, 0, 3]);
    log.save("1", 12, 5, 0).await;
    log.save("1", 11, 0, 4).await; // before the first window so far
    log.save("1", 10, 5, 0).await; // the line begins earlier
    assert_eq!(counted(&db.pool).await, [0, 0, 0, 10, 7]);
    tick(&db.pool, time.ago(0).await).await; // what waits for long is carried over
    assert_eq!(counted(&db.pool).await, [0, 0, 0, 10, 7]);
    log.judge(10, 10).await;
    assert_eq!(counted(&db.pool).await, [5, 1, 2, 5, 4]);
    log.judge(11, 11).await;
    log.judge(12, 12).await;
    assert_eq!(counted(&db.pool).await, [10, 5, 2, 0, 0]);
}

/// Upkeep attaches the partition of a row that is on its way to the default one: Postgres refuses the
/// row, and the next attempt finds the partition.
#[tokio::test]
async fn a_row_that_meets_a_new_partition_is_tried_again() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    run(
        pool,
        "select driftd.drop_partition(partition) from driftd.time_partitions
        where table_name = 'rejected_messages' and until_time is not null",
    )
    .await;
    let rejected = || {
        let rejected = Rejected {
            topic: "t".into(),
            partition: 0,
            generation: 1,
            offset: 7,
            monitor: String::new(),
            reason: "unparsable".into(),
            detail: String::new(),
            digest: vec![0],
            payload_bytes: 3,
            payload: None,
        };
        async move { store::rejected::insert(pool, &[rejected]).await }
    };
    let mut making = pool.begin().await.unwrap();
    let make = "select driftd.make_partition('rejected_messages', now())";
    let made: bool = sqlx::query_scalar(make)
        .fetch_one(&mut *making)
        .await
        .unwrap();
    assert!(made);
    let commit = async {
        until("the row waits for the partition", async || {
            let waits = "select count(*)::text from pg_stat_activity
                where wait_event_type = 'Lock' and query like '%keep rejected messages%'
                    and datname = current_database()";
            text(pool, waits).await == "1"
        })
        .await;
        making.commit().await.unwrap();
    };
    let (first, ()) = tokio::join!(rejected(), commit);
    let error = first.unwrap_err();
    assert!(error.is_transient(), "{}", error.chain());
    assert_eq!(rejected().await.unwrap(), 1);
    assert_eq!(rows_in(pool, "rejected_messages_default").await, 0);
}

// --- what becomes of old rows ----------------------------------------------------------------------

fn retention() -> Retention {
    let days = |days: u64| Duration::from_secs(days * 86_400);
    Retention {
        history: days(40),
        window_profiles: days(20),
        checkpoints: days(3),
        rejected_messages: days(3),
        outbox: days(3),
    }
}

/// Postgres' own time as the tests set it: what is written gets it as its time.
struct Time(PgPool);

impl Time {
    async fn take(pool: &PgPool) -> Self {
        let statements = "create table driftd_test_time (at timestamptz);
            insert into driftd_test_time values (now());
            create function driftd_test_now() returns timestamptz language sql stable
                as 'select at from public.driftd_test_time';
            grant select on driftd_test_time to public;
            alter table driftd.profile_deltas alter saved_at set default public.driftd_test_now();
            alter table driftd.checkpoints alter committed_at set default public.driftd_test_now();
            alter table driftd.rejected_messages alter rejected_at set default public.driftd_test_now();
            alter table driftd.windows alter judged_at set default public.driftd_test_now()";
        run(
            pool,
            &format!("set search_path = public; {statements}; reset search_path"),
        )
        .await;
        Self(pool.clone())
    }

    /// Sets it to so many hours before the real one.
    async fn ago(&self, hours: i64) -> DateTime<Utc> {
        let set =
            "update public.driftd_test_time set at = now() - $1 * interval '1 hour' returning at";
        let set = sqlx::query_scalar(set).bind(hours);
        set.fetch_one(&self.0).await.unwrap()
    }
}

async fn tick(pool: &PgPool, now: DateTime<Utc>) {
    driftd::upkeep::tick(pool, retention(), now).await;
}

/// How many partitions of a table have a time of their own.
async fn partitions_of(pool: &PgPool, table: &str) -> i64 {
    let sql = "select count(*) from driftd.time_partitions
        where table_name = $1 and until_time is not null";
    let count = sqlx::query_scalar(sql).bind(table);
    count.fetch_one(pool).await.unwrap()
}

async fn rows_in(pool: &PgPool, table: &str) -> i64 {
    let sql = format!("select count(*)::text from driftd.{table}");
    text(pool, &sql).await.parse().unwrap()
}

#[tokio::test]
async fn deltas_go_with_their_hour_once_no_window_waits() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    let time = Time::take(pool).await;
    let mut log = Log::begin(pool, "m").await;
    tick(pool, time.ago(10).await).await;
    log.save("1", 10, 5, 0).await;
    log.save("1", 11, 5, 0).await;
    log.judge(10, 10).await;
    let now = time.ago(8).await;
    tick(pool, now).await;
    assert_eq!(rows_in(pool, "profile_deltas").await, 2, "window 11 waits");
    log.save("1", 12, 5, 0).await;
    log.judge(11, 11).await;
    // A judge at work on a window has read its deltas and holds their tables no longer.
    let mut judging = pool.begin().await.unwrap();
    let claimed = claimed(log.monitor_id, 12, 12);
    let read = windows::deltas(&mut judging, &claimed).await.unwrap();
    assert_eq!(read.len(), 1);
    let fallen = "select count(*)::text from driftd.profile_deltas_default";
    assert_eq!(text(pool, fallen).await, "0", "an hour was not made ahead");
    tick(pool, now).await;
    assert_eq!(
        rows_in(pool, "profile_deltas").await,
        1,
        "of window 12 only"
    );
    judging.rollback().await.unwrap();
    assert_eq!(counted(pool).await, [10, 0, 0, 5, 0]);
    // An hour that is still written to stays, whatever it holds.
    log.judge(12, 12).await;
    tick(pool, now).await;
    assert_eq!(rows_in(pool, "profile_deltas").await, 1);
}

#[tokio::test]
async fn deltas_of_long_windows_are_carried_over_as_they_are() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    let time = Time::take(pool).await;
    let mut log = Log::begin(pool, "m").await;
    tick(pool, time.ago(40).await).await;
    for _ in 0..3 {
        log.save("1", 10, 5, 0).await;
    }
    let waiting = "select jsonb_agg(to_jsonb(d) - 'saved_at' order by checkpoint_id)::text
        from driftd.profile_deltas d";
    let before = text(pool, waiting).await;
    let now = time.ago(10).await;
    tick(pool, now).await;
    assert_eq!(text(pool, waiting).await, before);
    let oldest = "select (min(saved_at) = (select at from public.driftd_test_time))::text
        from driftd.profile_deltas";
    assert_eq!(text(pool, oldest).await, "true");
    let old = time_partitions::over_by(pool, "profile_deltas", now - upkeep::DELTAS_STAY).await;
    assert_eq!(old.unwrap(), []);
    log.judge(10, 10).await;
    tick(pool, time.ago(0).await).await;
    assert_eq!(rows_in(pool, "profile_deltas").await, 0);
    assert_eq!(counted(pool).await, [15, 0, 0, 0, 0]);
}

/// Windows, scores, profiles.
async fn history(pool: &PgPool) -> [i64; 3] {
    [
        rows_in(pool, "windows").await,
        rows_in(pool, "drift_scores").await,
        rows_in(pool, "window_profiles").await,
    ]
}

#[tokio::test]
async fn history_goes_by_the_clock_and_a_month_when_all_of_it_is_old() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    let time = Time::take(pool).await;
    let mut log = Log::begin(pool, "m").await;
    // Windows of 1970: days 0 and 1 of January and day 31, in February; March falls into the default
    // partitions, because nobody makes it.
    for (window, make) in [(0, true), (1, true), (31, true), (59, false), (60, false)] {
        log.save("1", window, 1, 0).await;
        if make {
            time_partitions::make_month(pool, day(window))
                .await
                .unwrap();
        }
    }
    time.ago(50 * 24).await;
    log.judge(0, 0).await;
    log.judge(1, 1).await;
    let day_31 = time.ago(30 * 24).await;
    log.judge(2, 31).await;
    let default = "select count(*)::text from driftd.windows_default";
    assert_eq!(text(pool, default).await, "0");
    time.ago(50 * 24).await;
    log.judge(32, 59).await;
    let now = time.ago(0).await;
    log.judge(60, 60).await;
    assert_eq!(text(pool, default).await, "2");
    assert_eq!(history(pool).await, [5, 5, 5]);

    // As of then nothing is older than forty days, and the profiles of days 0, 1 and 59 are older
    // than twenty.
    tick(pool, day_31 + chrono::Duration::days(2)).await;
    assert_eq!(history(pool).await, [5, 5, 2]);
    tick(pool, now).await;
    let left = "select string_agg(extract(doy from window_start)::text, ', ' order by window_start)
        from driftd.windows";
    assert_eq!(text(pool, left).await, "32, 61");
    assert_eq!(history(pool).await, [2, 2, 1]);
    assert_eq!(
        partitions_of(pool, "windows").await,
        partitions_of(pool, "drift_scores").await
    );
    // Late rows of what is gone are counted all the same.
    log.save("1", 0, 0, 7).await;
    assert_eq!(counted(pool).await, [2, 0, 7, 0, 0]);
}

#[tokio::test]
async fn checkpoints_and_messages_go_when_they_are_old() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    let time = Time::take(pool).await;
    let mut log = Log::begin(pool, "m").await;
    let rejected =
        "insert into driftd.rejected_messages (topic, partition, message_offset, reason, digest,
        payload_bytes) select 't', 0, coalesce(max(message_offset), 0) + 1, 'unparsable', '', 0
        from driftd.rejected_messages";
    time.ago(10 * 24).await;
    log.save("1", 10, 1, 0).await; // into the default partition: none was made
    run(pool, rejected).await;
    for days in [6, 4, 2] {
        tick(pool, time.ago(days * 24).await).await;
        log.save("1", 10, 1, 0).await;
        run(pool, rejected).await;
    }
    let delivered =
        "insert into driftd.outbox (key, kind, payload, delivered_at) select n, 'k', '{}',
        now() - n * interval '1 day' from generate_series(1, 9) n;
        insert into driftd.outbox (key, kind, payload) values ('undelivered', 'k', '{}')";
    run(pool, delivered).await;
    tick(pool, time.ago(0).await).await;
    let left = [
        rows_in(pool, "checkpoints").await,
        rows_in(pool, "rejected_messages").await,
        rows_in(pool, "outbox").await,
    ];
    assert_eq!(left, [1, 1, 3]);
    assert_eq!(
        counted(pool).await,
        [0, 0, 0, 4, 0],
        "deltas wait for their window"
    );
}

#[tokio::test]
async fn nothing_is_dropped_early_by_a_clock_that_runs_ahead() {
    let db = postgres::fresh().await;
    let mut log = Log::begin(&db.pool, "m").await;
    log.save("1", 10, 1, 0).await;
    log.judge(10, 10).await;
    tick(&db.pool, Clock::System.now() + chrono::Duration::days(4000)).await;
    assert_eq!(rows_in(&db.pool, "checkpoints").await, 1);
    assert_eq!(history(&db.pool).await, [1, 1, 1]);
}

/// Two replicas make and drop partitions while others write, judge and read: nobody fails, and no row
/// is lost.
#[tokio::test]
async fn partitions_come_and_go_under_writers_judges_and_readers() {
    let db = postgres::fresh().await;
    let (pool, other) = (&db.pool, db.another_pool().await);
    let time = Time::take(pool).await;
    let mut log = Log::begin(pool, "m").await;
    let mut late = Log::begin_at(&other, "m", 1).await;
    let monitor_id = log.monitor_id;
    let stop = CancellationToken::new();
    let writer = async {
        let mut window = 0;
        while !stop.is_cancelled() {
            log.save("1", window, 3, 0).await;
            late.save("1", window / 2, 1, 1).await;
            window += 1;
        }
        (log.offset + late.offset, window)
    };
    let judge = async {
        while !stop.is_cancelled() {
            let sql = "select (extract(epoch from next_start) / 86400)::bigint
                from driftd.window_cursors where next_start < last_start";
            let next = sqlx::query_scalar(sql).fetch_optional(&other).await;
            match next.unwrap() {
                Some(next) => judge(&other, monitor_id, next, next).await.unwrap(),
                None => tokio::task::yield_now().await,
            }
        }
    };
    let reader = async {
        while !stop.is_cancelled() {
            for view in [
                "drift_history",
                "waiting_rows",
                "monitor_health",
                "drift_attribution",
            ] {
                rows_in(pool, view).await;
            }
        }
    };
    let upkeep = async {
        for ago in (0..48).rev() {
            let now = time.ago(ago).await;
            tokio::join!(tick(pool, now), tick(&other, now));
        }
        stop.cancel();
    };
    let ((written, windows), (), (), ()) = tokio::join!(writer, judge, reader, upkeep);
    assert!(windows > 10, "only {windows} were written");
    let counted = counted(pool).await;
    assert_eq!(counted.iter().sum::<i64>(), written, "{counted:?}");
    assert!(counted[0] > 0, "none was judged");

    // With nobody in the way what could not be dropped meanwhile is dropped.
    let now = time.ago(0).await;
    tick(pool, now).await;
    let left = time_partitions::over_by(pool, "profile_deltas", now - upkeep::DELTAS_STAY).await;
    assert_eq!(left.unwrap(), []);
    assert!(partitions_of(pool, "profile_deltas").await < 40);
}

/// Fault: somebody's report runs for long in one transaction, over driftd's own tables.
#[tokio::test]
async fn a_report_that_takes_long_is_named_and_changes_nothing() {
    let (quiet, disturbed) = (mock_topic(), mock_topic());
    let log = messages(16, &story());
    let mut results = Vec::new();
    for (topic, is_disturbed) in [(quiet, false), (disturbed, true)] {
        let knobs = Knobs::mock(&topic);
        let stage = Stage::set(&knobs).await;
        produce(&knobs.brokers, &topic, &log);
        let settings = std::fs::read_to_string(&stage.config).unwrap();
        let settings = settings.replace("[postgres]\n", "[postgres]\nlong_transaction = \"1s\"\n");
        std::fs::write(&stage.config, settings).unwrap();

        let mut report = stage.db.pool.begin().await.unwrap();
        if is_disturbed {
            let begin = "set transaction isolation level repeatable read;
                set local application_name = 'monthly report';
                select 'secret' from driftd.drift_history, driftd.profile_deltas, driftd.checkpoints";
            sqlx::raw_sql(begin).execute(&mut *report).await.unwrap();
            until("the report has run for a second", async || {
                let old =
                    "select (now() - xact_start > interval '1.1 s')::text from pg_stat_activity
                    where application_name = 'monthly report'";
                text(&stage.db.pool, old).await == "true"
            })
            .await;
        }
        let mut daemon = Daemon::start(&stage.config);
        stage.saved(log.len()).await;
        let windows = Reference::of(&log, &stage.baseline_csv).windows.len();
        stage.judged(windows).await;
        if is_disturbed {
            check_told(&daemon).await;
        }
        assert!(daemon.terminate().await.success(), "{}", daemon.log());
        report.rollback().await.unwrap();
        let found = stage.results().await;
        assert!(found.len() > 10);
        results.push(found);
        // Nobody makes a partition of a table that the report has looked at; its rows find a place.
        let stray = "select count(*) from driftd.windows_default";
        assert_eq!(stage.count(stray).await > 0, is_disturbed);
    }
    assert_eq!(results[0], results[1]);
}

async fn check_told(daemon: &Daemon) {
    until("the report is named in the log", async || {
        daemon.log().contains("monthly report")
    })
    .await;
    let told = daemon.log();
    let line = told
        .lines()
        .find(|line| line.contains("monthly report"))
        .unwrap();
    for words in [
        "WARN",
        "kind=\"session\"",
        "pid=",
        "user=\"driftd\"",
        "idle in transaction",
        "age.seconds=",
    ] {
        assert!(line.contains(words), "{words} is not in {line}");
    }
    assert!(!told.contains("secret"), "the query's text is in the log");
    let (_, metrics) = daemon.get("/metrics").unwrap();
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok())
    };
    assert!(value("driftd_postgres_oldest_transaction_age_seconds ").is_some_and(|age| age >= 1.0));
    assert!(value("driftd_postgres_horizon_age_transactions ").is_some_and(|age| age >= 1.0));
    assert!(
        value("driftd_postgres_table_bytes{table=\"windows\"}").is_some_and(|bytes| bytes > 0.0)
    );
}
