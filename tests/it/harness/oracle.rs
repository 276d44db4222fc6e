//! Whether what stands in the tables is what the reference says, and what has to hold whatever
//! happened. A test of a fault ends with [`check`], or with [`check_invariants`] where the reference
//! does not know the log.

use chrono::{DateTime, Utc};
use driftd::store::verify;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};

use super::daemon::Daemon;
use super::reference::{Reference, Score, Window};
use super::stage::{Knobs, Stage, mock_topic};
use super::traffic::{Record, produce};

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap()
}

/// Compares every result with what one monitor of the log comes to, and checks the invariants.
pub(crate) async fn check(stage: &Stage, reference: &Reference) {
    check_all(stage, &[reference]).await;
}

/// The same for the monitors of one topic, the one that asks for retraining first.
pub(crate) async fn check_all(stage: &Stage, references: &[&Reference]) {
    let pool = &stage.db.pool;
    for reference in references {
        check_windows(pool, reference).await;
        check_offsets(pool, reference).await;
        check_scores(pool, reference).await;
        check_episodes(pool, reference).await;
        check_rows(pool, reference).await;
    }
    let windows: usize = references.iter().map(|one| one.windows.len()).sum();
    let by_clock = "select count(*) from driftd.windows where by_clock";
    let by_clock = count(pool, by_clock).await;
    let all = "select count(*) from driftd.windows";
    assert!(by_clock > 0 || count(pool, all).await == size(windows));
    check_contributions(pool).await;
    check_jobs(pool, references[0]).await;
    check_messages(stage, references[0]).await;
    check_invariants(stage).await;
}

fn size(count: usize) -> i64 {
    i64::try_from(count).unwrap()
}

async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

// --- windows and scores --------------------------------------------------------------------------

pub(crate) async fn check_windows(pool: &PgPool, reference: &Reference) {
    type Row = (
        DateTime<Utc>,
        DateTime<Utc>,
        i64,
        i64,
        i64,
        String,
        i32,
        i32,
        f64,
    );
    let sql =
        "select window_start, window_end, rows, late, late_after_idle, verdict::text, features,
            drifted_features, drifted_share
        from driftd.windows join driftd.monitors using (monitor_id)
        where monitor = $1 and not by_clock order by window_start";
    let found = sqlx::query_as(sql).bind(reference.watch.name);
    let found: Vec<Row> = found.fetch_all(pool).await.unwrap();
    let left_out = by_clock(pool, reference, "window_start", "windows").await;
    let row = |window: &Window| {
        let tested = if window.scores.is_empty() { 0 } else { 4 };
        let share = f64::from(window.drifted_features) / f64::from(tested.max(1));
        (
            at(window.start_ms),
            at(window.start_ms + reference.watch.size_ms),
            window.rows,
            window.late,
            0,
            window.verdict.to_owned(),
            tested,
            window.drifted_features,
            share,
        )
    };
    let compared = reference.windows.iter();
    let compared = compared.filter(|window| !left_out.contains(&at(window.start_ms)));
    assert_eq!(found, compared.map(row).collect::<Vec<Row>>());
}

/// What only the clock has decided: comparisons leave it out.
async fn by_clock(
    pool: &PgPool,
    reference: &Reference,
    column: &str,
    table: &str,
) -> Vec<DateTime<Utc>> {
    let sql = format!(
        "select {column} from driftd.{table} join driftd.monitors m using (monitor_id)
        where m.monitor = $1 and by_clock"
    );
    let found = sqlx::query_scalar(AssertSqlSafe(sql)).bind(reference.watch.name);
    found.fetch_all(pool).await.unwrap()
}

pub(crate) async fn check_offsets(pool: &PgPool, reference: &Reference) {
    let sql = "select offsets from driftd.windows join driftd.monitors using (monitor_id)
        where monitor = $1 and not by_clock order by window_start";
    let found = sqlx::query_scalar(sql).bind(reference.watch.name);
    let found: Vec<Value> = found.fetch_all(pool).await.unwrap();
    let left_out = by_clock(pool, reference, "window_start", "windows").await;
    let compared = reference.windows.iter();
    let compared = compared.filter(|window| !left_out.contains(&at(window.start_ms)));
    let hull = |(partition, (first, next)): (&i32, &(i64, i64))| json!({"partition": partition, "first_offset": first, "next_offset": next});
    let row = |window: &Window| window.offsets.iter().map(hull).collect::<Value>();
    assert_eq!(found, compared.map(row).collect::<Vec<_>>());
}

#[derive(sqlx::FromRow)]
struct FoundScore {
    window_start: DateTime<Utc>,
    feature: String,
    test: String,
    statistic: Option<f64>,
    p_value: Option<f64>,
    p_adjusted: Option<f64>,
    effect: Option<f64>,
    threshold: Option<f64>,
    error_bound: Option<f64>,
    rows_window: i64,
    nulls: i64,
    unseen: i64,
    drifted: bool,
    decides: bool,
}

pub(crate) async fn check_scores(pool: &PgPool, reference: &Reference) {
    let sql = "select s.* from driftd.drift_scores s join driftd.monitors using (monitor_id)
        where monitor = $1 order by window_start, feature, test";
    let found = sqlx::query_as(sql).bind(reference.watch.name);
    let found: Vec<FoundScore> = found.fetch_all(pool).await.unwrap();
    let windows = reference.windows.iter();
    let expected: Vec<(&Window, &Score)> = windows
        .flat_map(|window| window.scores.iter().map(move |score| (window, score)))
        .collect();
    assert_eq!(found.len(), expected.len());
    for (found, (window, score)) in found.iter().zip(expected) {
        check_score(found, window, score);
    }
}

fn check_score(found: &FoundScore, window: &Window, score: &Score) {
    let place = format!("{} {} {}", at(window.start_ms), score.feature, score.test);
    let FoundScore { feature, test, .. } = found;
    assert_eq!(format!("{} {feature} {test}", found.window_start), place);
    let numbers = [
        ("statistic", found.statistic, Some(score.statistic)),
        ("effect", found.effect, Some(score.effect)),
        ("p_value", found.p_value, score.p_value),
        ("p_adjusted", found.p_adjusted, score.p_adjusted),
        ("threshold", found.threshold, Some(score.threshold)),
    ];
    let known = if score.decides() { 5 } else { 2 };
    for (name, found, expected) in numbers.into_iter().take(known) {
        let near = match (found, expected) {
            (Some(found), Some(expected)) => {
                // The root of a small difference has half of its digits.
                let digits = if name == "effect" { 1e-6 } else { 1e-9 };
                let near = (found - expected).abs() <= digits * expected.abs().max(1e-6);
                // Of levels with many rows the judge takes what chance gives by a formula, where
                // the reference goes through all deals; the formula stands under the root.
                let squares = (found.powi(2) - expected.powi(2)).abs();
                near || (name, score.test) == ("effect", "chi2") && squares < 1e-6
            }
            (found, expected) => found == expected,
        };
        assert!(near, "{place}: {name} is {found:?}, expected {expected:?}");
    }
    assert_eq!(
        found.error_bound, None,
        "{place}: all rows are in the sample"
    );
    assert_eq!(found.decides, score.decides(), "{place}");
    let counts = (found.rows_window, found.nulls, found.unseen, found.drifted);
    let expected = (window.rows, score.nulls, score.unseen, score.drifted);
    assert_eq!(counts, expected, "{place}");
}

/// What speaks for drift has bins that it comes from, and nothing else has any.
async fn check_contributions(pool: &PgPool) {
    let sql = "select count(*) from driftd.drift_scores s
        where drifted <> exists (select from driftd.drift_contributions c
            where (c.monitor_id, c.version, c.window_start, c.feature, c.test)
                = (s.monitor_id, s.version, s.window_start, s.feature, s.test)
                and c.rank = 1 and c.contribution > 0)";
    assert_eq!(count(pool, sql).await, 0);
    let sql = "select coalesce(max(total), 1) from (select sum(contribution) as total
        from driftd.drift_contributions group by monitor_id, window_start, feature, test) as x";
    let most: f64 = sqlx::query_scalar(sql).fetch_one(pool).await.unwrap();
    assert!(most <= 1.0 + 1e-9, "{most}");
}

// --- episodes and jobs ---------------------------------------------------------------------------

/// An alert about drift fires with its first window, one about silence with its second.
pub(crate) async fn check_episodes(pool: &PgPool, reference: &Reference) {
    type Row = (DateTime<Utc>, Option<DateTime<Utc>>, i32, String);
    let every_ms = reference.watch.every_ms;
    for (kind, episodes, fires_after_ms) in [
        ("drift", &reference.episodes, 0),
        ("silence", &reference.silences, every_ms),
    ] {
        let sql = "select first_window, fired_window, drifted_windows, state::text
            from driftd.alert_episodes where monitor = $1 and kind = $2 and not by_clock
            order by first_window";
        let found = sqlx::query_as(sql).bind(reference.watch.name).bind(kind);
        let found: Vec<Row> = found.fetch_all(pool).await.unwrap();
        let left_out = by_clock(pool, reference, "first_window", "alert_episodes").await;
        let compared = episodes.iter();
        let compared = compared.filter(|episode| !left_out.contains(&at(episode.first_ms)));
        let expected = compared.map(|episode| {
            let state = if episode.resolved {
                "resolved"
            } else {
                "firing"
            };
            let first = at(episode.first_ms);
            let fired = at(episode.first_ms + fires_after_ms);
            let windows = episode.drifted_windows;
            (first, Some(fired), windows, state.to_owned())
        });
        assert_eq!(found, expected.collect::<Vec<Row>>(), "{kind}");
    }
}

/// The first episode enqueues the model's job; while that is open, the others join it. Only the
/// first monitor asks.
pub(crate) async fn check_jobs(pool: &PgPool, reference: &Reference) {
    let sql = "select model, version, monitor, state::text, jsonb_array_length(reasons)
        from driftd.retraining_jobs order by job_id";
    let found: Vec<(String, String, String, String, i32)> =
        sqlx::query_as(sql).fetch_all(pool).await.unwrap();
    let [model, version, monitor, state] =
        ["credit", "1", reference.watch.name, "queued"].map(str::to_owned);
    let episodes = i32::try_from(reference.episodes.len()).unwrap();
    let job = (model, version, monitor, state, episodes);
    let expected = if episodes == 0 { vec![] } else { vec![job] };
    assert_eq!(found, expected);
    let sql = "select outcome from driftd.retraining_triggers t
        join driftd.alert_episodes e using (episode_id) order by e.first_window";
    let outcomes: Vec<String> = sqlx::query_scalar(sql).fetch_all(pool).await.unwrap();
    let expected =
        (0..reference.episodes.len()).map(|i| if i == 0 { "enqueued" } else { "joined" });
    assert_eq!(outcomes, expected.collect::<Vec<_>>());
}

// --- every message is accounted for --------------------------------------------------------------

/// Rows per monitor: in a judged window or waiting for one, counted or late.
async fn check_rows(pool: &PgPool, reference: &Reference) {
    let sql = "select coalesce(sum(w.rows), 0)::bigint, coalesce(sum(w.late), 0)::bigint
        from driftd.windows w join driftd.monitors using (monitor_id) where monitor = $1";
    let judged = sqlx::query_as(sql).bind(reference.watch.name);
    let judged: (i64, i64) = judged.fetch_one(pool).await.unwrap();
    let sql = "select coalesce(sum(rows), 0)::bigint, coalesce(sum(late), 0)::bigint
        from driftd.waiting_rows where monitor = $1";
    let waiting = sqlx::query_as(sql).bind(reference.watch.name);
    let waiting: (i64, i64) = waiting.fetch_one(pool).await.unwrap();
    let sql = "select coalesce(sum(late), 0)::bigint, coalesce(sum(late_after_idle), 0)::bigint
        from driftd.rows_without_window join driftd.monitors using (monitor_id)
        where monitor = $1";
    let apart = sqlx::query_as(sql).bind(reference.watch.name);
    let apart: (i64, i64) = apart.fetch_one(pool).await.unwrap();
    assert_eq!(waiting.0, reference.waiting);
    let found = (
        judged.0 + waiting.0 + apart.1,
        judged.1 + waiting.1 + apart.0,
    );
    assert_eq!(found, (reference.counted, reference.late));
}

/// Every message is accounted for: counted, late, rejected or skipped.
async fn check_messages(stage: &Stage, reference: &Reference) {
    let sql = "select partition, message_offset, reason from driftd.rejected_messages
        order by partition, message_offset";
    let found: Vec<(i32, i64, String)> =
        sqlx::query_as(sql).fetch_all(&stage.db.pool).await.unwrap();
    let expected = reference.rejected.iter();
    let expected =
        expected.map(|(partition, offset, reason)| (*partition, *offset, (*reason).to_owned()));
    assert_eq!(found, expected.collect::<Vec<_>>());

    let rejected = size(reference.rejected.len());
    let messages: i64 = reference.messages.iter().sum();
    let rows = (reference.counted + reference.late) / reference.watch.windows_per_row();
    assert_eq!(messages, rows + rejected + reference.skipped);
    let sql = "select sum(messages)::bigint, sum(rejected)::bigint, sum(skipped)::bigint
        from driftd.checkpoints";
    let sums: (i64, i64, i64) = sqlx::query_as(sql).fetch_one(&stage.db.pool).await.unwrap();
    assert_eq!(sums, (messages, rejected, reference.skipped));
    let first = vec![0; reference.messages.len()];
    stage.check_coverage(&first, &reference.messages).await;
}

// --- what holds whatever happened ----------------------------------------------------------------

/// What no fault may break, each as the rows that break it.
const INVARIANTS: [(&str, &str); 9] = [
    (
        "the checkpoints of a log neither overlap nor leave anything out but a recorded gap",
        "select c::text from (select *, lag(next_offset) over (partition by topic, partition,
                generation order by first_offset, next_offset, checkpoint_id) as before
            from driftd.checkpoints) c
        where first_offset <> before and not exists (select from driftd.gaps g
            where (g.topic, g.partition, g.generation, g.from_offset, g.to_offset)
                = (c.topic, c.partition, c.generation, c.before, c.first_offset)
                and g.passed_at is not null)",
    ),
    (
        "the stored offsets are where the checkpoints begin and end",
        "select p::text from driftd.partition_progress p
            cross join lateral (select min(first_offset) as first, max(next_offset) as next
                from driftd.checkpoints c where (c.topic, c.partition, c.generation)
                    = (p.topic, p.partition, p.generation)) c
        where c.first is not null and (c.first < p.first_offset or c.next > p.next_offset)",
    ),
    (
        "a checkpoint has no more messages than offsets",
        "select c::text from driftd.checkpoints c
        where messages > next_offset - first_offset or rejected + skipped > messages",
    ),
    (
        "a stored offset never goes back",
        "select line from harness.went_back",
    ),
    (
        "a window has one verdict, whatever revision of its monitor gave it",
        "select m.monitor || ' ' || w.window_start from driftd.windows w
            join driftd.monitors m using (monitor_id)
        group by m.monitor, w.version, w.segment, w.window_start having count(*) > 1",
    ),
    (
        "a judged window holds what its scores were made from",
        "select s::text from driftd.drift_scores s
            join driftd.windows w using (monitor_id, version, segment, window_start)
        where s.rows_window <> w.rows",
    ),
    (
        "a line of windows is judged without a hole",
        "select c::text from driftd.window_cursors c
        where judged <> (select count(*) from driftd.windows w
            where (w.monitor_id, w.version, w.segment) = (c.monitor_id, c.version, c.segment))",
    ),
    (
        "a model has one open job",
        "select model from driftd.retraining_jobs
        where state in ('awaiting_approval', 'queued', 'running')
        group by model having count(*) > 1",
    ),
    (
        "an episode that fired said so once, and its trigger has its job",
        "select e::text from driftd.alert_episodes e
        where (fired_window is not null and 1 <> (select count(*) from driftd.alert_events v
                where v.episode_id = e.episode_id and v.kind = 'fired'))
            or exists (select from driftd.retraining_triggers t
                where t.episode_id = e.episode_id and t.outcome <> 'stopped'
                    and not exists (select from driftd.retraining_jobs j
                        where j.job_id = t.job_id and j.reasons
                            @> jsonb_build_array(jsonb_build_object('episode_id', e.episode_id))))",
    ),
];

/// What holds of every log and after every fault: by these lines, and by what `driftd verify` asks.
pub(crate) async fn check_invariants(stage: &Stage) {
    for (what, sql) in INVARIANTS {
        let broken: Vec<String> = sqlx::query_scalar(sql)
            .fetch_all(&stage.db.pool)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(broken.is_empty(), "{what}, but:\n{}", broken.join("\n"));
    }
    for finding in verify::all(&stage.db.pool, 10).await.unwrap() {
        assert_eq!(
            finding.found, 0,
            "{}, but:\n{:#?}",
            finding.holds, finding.rows
        );
    }
}

// --- the same as without a fault -----------------------------------------------------------------

/// Runs one daemon over a log that is there already, to its end.
pub(crate) async fn run_undisturbed(stage: &Stage, log: &[Record], windows: usize) {
    let mut daemon = Daemon::start(&stage.config);
    stage.saved(log.len()).await;
    stage.judged(windows).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}

/// What an undisturbed daemon makes of a log.
pub(crate) async fn undisturbed(log: &[Record]) -> Vec<String> {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    produce(&knobs.brokers, &topic, log);
    let windows = Reference::of(log, &stage.baseline_csv).windows.len();
    run_undisturbed(&stage, log, windows).await;
    stage.results().await
}

/// Bit for bit.
pub(crate) fn assert_same(found: &[String], expected: &[String]) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}
