//! A stream goes in through Kafka and `driftd run`; windows, scores, episodes and jobs come out of
//! Postgres, as an independent reference computes them from the same messages.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::daemon::Daemon;
use crate::harness::kafka::Kafka;
use crate::harness::reference::{Reference, Score, Window};
use crate::harness::stage::{Knobs, Stage, hold, is_held_up, kafka_topic, mock_topic};
use crate::harness::traffic::{
    Dice, PARTITIONS, Record, START_MS, WINDOW_MS, messages, produce, story,
};
use crate::harness::until;

/// One for which no stable window of the story is beyond the limits by chance.
const SEED: u64 = 16;

fn start_of(window: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(START_MS + window * WINDOW_MS).unwrap()
}

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap()
}

/// Runs one daemon over a log that is there already, to its end.
async fn run_undisturbed(stage: &Stage, log: &[Record], windows: usize) {
    let mut daemon = Daemon::start(&stage.config);
    stage.saved(log.len()).await;
    stage.judged(windows).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}

// --- what comes out is what the reference says ---------------------------------------------------

pub(crate) async fn check(stage: &Stage, reference: &Reference) {
    let pool = &stage.db.pool;
    check_windows(pool, &reference.windows).await;
    check_offsets(pool, &reference.windows).await;
    check_scores(pool, &reference.windows).await;
    check_episodes(pool, reference).await;
    check_jobs(pool, reference).await;
    check_messages(stage, reference).await;
}

pub(crate) async fn check_windows(pool: &PgPool, expected: &[Window]) {
    type Row = (DateTime<Utc>, i64, i64, i64, String, i32, i32, f64);
    let sql = "select window_start, rows, late, late_after_idle, verdict::text, features,
            drifted_features, drifted_share
        from driftd.windows order by window_start";
    let found: Vec<Row> = sqlx::query_as(sql).fetch_all(pool).await.unwrap();
    let row = |window: &Window| {
        let tested = if window.scores.is_empty() { 0 } else { 4 };
        let share = f64::from(window.drifted_features) / f64::from(tested.max(1));
        (
            at(window.start_ms),
            window.rows,
            window.late,
            0,
            window.verdict.to_owned(),
            tested,
            window.drifted_features,
            share,
        )
    };
    assert_eq!(found, expected.iter().map(row).collect::<Vec<Row>>());
}

async fn check_offsets(pool: &PgPool, expected: &[Window]) {
    let sql = "select offsets from driftd.windows order by window_start";
    let found: Vec<Value> = sqlx::query_scalar(sql).fetch_all(pool).await.unwrap();
    let hull = |(partition, (first, next)): (&i32, &(i64, i64))| json!({"partition": partition, "first_offset": first, "next_offset": next});
    let row = |window: &Window| window.offsets.iter().map(hull).collect::<Value>();
    assert_eq!(found, expected.iter().map(row).collect::<Vec<_>>());
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
    threshold_origin: Option<String>,
    error_bound: Option<f64>,
    rows_window: i64,
    nulls: i64,
    unseen: i64,
    drifted: bool,
}

/// What speaks for drift has bins that it comes from, and nothing else has any.
async fn check_contributions(pool: &PgPool) {
    let sql = "select count(*) from driftd.drift_scores s
        where drifted <> exists (select from driftd.drift_contributions c
            where (c.monitor_id, c.version, c.window_start, c.feature, c.test)
                = (s.monitor_id, s.version, s.window_start, s.feature, s.test)
                and c.rank = 1 and c.contribution > 0)";
    let astray: i64 = sqlx::query_scalar(sql).fetch_one(pool).await.unwrap();
    assert_eq!(astray, 0);
    let sql = "select coalesce(max(total), 1) from (select sum(contribution) as total
        from driftd.drift_contributions group by window_start, feature, test) as x";
    let most: f64 = sqlx::query_scalar(sql).fetch_one(pool).await.unwrap();
    assert!(most <= 1.0 + 1e-9, "{most}");
}

pub(crate) async fn check_scores(pool: &PgPool, windows: &[Window]) {
    check_contributions(pool).await;
    let sql = "select * from driftd.drift_scores order by window_start, feature, test";
    let found: Vec<FoundScore> = sqlx::query_as(sql).fetch_all(pool).await.unwrap();
    let expected: Vec<(&Window, &Score)> = windows
        .iter()
        .flat_map(|window| window.scores.iter().map(move |score| (window, score)))
        .collect();
    assert_eq!(found.len(), expected.len());
    for (found, (window, score)) in found.iter().zip(expected) {
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
                    (found - expected).abs() <= digits * expected.abs().max(1e-6)
                }
                (found, expected) => found == expected,
            };
            assert!(near, "{place}: {name} is {found:?}, expected {expected:?}");
        }
        assert_eq!(
            found.threshold_origin.as_deref(),
            Some("settings"),
            "{place}"
        );
        assert_eq!(
            found.error_bound, None,
            "{place}: all rows are in the sample"
        );
        let counts = (found.rows_window, found.nulls, found.unseen, found.drifted);
        let expected = (window.rows, score.nulls, score.unseen, score.drifted);
        assert_eq!(counts, expected, "{place}");
    }
}

pub(crate) async fn check_episodes(pool: &PgPool, reference: &Reference) {
    type Row = (DateTime<Utc>, DateTime<Utc>, i32, String);
    let sql = "select first_window, fired_window, drifted_windows, state::text
        from driftd.alert_episodes order by first_window";
    let found: Vec<Row> = sqlx::query_as(sql).fetch_all(pool).await.unwrap();
    let expected = reference.episodes.iter().map(|episode| {
        let state = if episode.resolved {
            "resolved"
        } else {
            "firing"
        };
        let first = at(episode.first_ms);
        (first, first, episode.drifted_windows, state.to_owned())
    });
    assert_eq!(found, expected.collect::<Vec<Row>>());
}

/// The first episode enqueues the model's job; while that is open, the others join it.
pub(crate) async fn check_jobs(pool: &PgPool, reference: &Reference) {
    let sql = "select model, version, monitor, state::text, jsonb_array_length(reasons)
        from driftd.retraining_jobs order by job_id";
    let found: Vec<(String, String, String, String, i32)> =
        sqlx::query_as(sql).fetch_all(pool).await.unwrap();
    let [credit, one, queued] = ["credit", "1", "queued"].map(str::to_owned);
    let episodes = i32::try_from(reference.episodes.len()).unwrap();
    let job = (credit.clone(), one, credit, queued, episodes);
    let expected = if episodes == 0 { vec![] } else { vec![job] };
    assert_eq!(found, expected);
    let sql = "select outcome from driftd.retraining_triggers t
        join driftd.alert_episodes e using (episode_id) order by e.first_window";
    let outcomes: Vec<String> = sqlx::query_scalar(sql).fetch_all(pool).await.unwrap();
    let expected =
        (0..reference.episodes.len()).map(|i| if i == 0 { "enqueued" } else { "joined" });
    assert_eq!(outcomes, expected.collect::<Vec<_>>());
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

    let rejected = i64::try_from(reference.rejected.len()).unwrap();
    let messages: i64 = reference.messages.iter().sum();
    assert_eq!(
        messages,
        reference.counted + reference.late + rejected + reference.skipped
    );
    let sql = "select sum(messages)::bigint, sum(rejected)::bigint, sum(skipped)::bigint
        from driftd.checkpoints";
    let sums: (i64, i64, i64) = sqlx::query_as(sql).fetch_one(&stage.db.pool).await.unwrap();
    assert_eq!(sums, (messages, rejected, reference.skipped));

    let sql = "select sum(rows)::bigint, sum(late)::bigint from driftd.windows";
    let judged: (i64, i64) = sqlx::query_as(sql).fetch_one(&stage.db.pool).await.unwrap();
    let waiting = "select coalesce(sum(rows), 0)::bigint from driftd.waiting_rows";
    assert_eq!(stage.count(waiting).await, reference.waiting);
    assert_eq!(
        judged,
        (reference.counted - reference.waiting, reference.late)
    );
    let first = vec![0; reference.messages.len()];
    stage.check_coverage(&first, &reference.messages).await;
}

#[tokio::test]
async fn a_drifting_stream_comes_out_as_the_reference_says() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let log = messages(SEED, &story());
    produce(&knobs.brokers, &topic, &log);

    let reference = Reference::of(&log, &stage.baseline_csv);
    run_undisturbed(&stage, &log, reference.windows.len()).await;
    check(&stage, &reference).await;

    // The story is what it is meant to be.
    let verdicts: Vec<&str> = reference
        .windows
        .iter()
        .map(|window| window.verdict)
        .collect();
    let [stable, drifted, few] = ["stable", "drifted", "too_few_rows"];
    let mut meant = [[stable; 5].as_slice(), &[drifted; 4], &[stable; 4]].concat();
    meant.extend([few, few, stable, drifted, stable]);
    assert_eq!(verdicts, meant);
    assert!(reference.late > 20 && reference.skipped > 5);
    for reason in [
        "unparsable",
        "no_timestamp",
        "bad_timestamp",
        "future_timestamp",
    ] {
        assert!(
            reference.rejected.iter().any(|(.., why)| *why == reason),
            "no {reason}"
        );
    }
    assert_eq!(reference.episodes.len(), 2);
}

/// Nobody closes the windows here: the messages end, one partition never has any, and being
/// caught up and quiet is what lets the windows ripen.
#[tokio::test]
async fn partitions_that_have_ended_hold_no_window_back() {
    let topic = mock_topic();
    let mut knobs = Knobs::mock(&topic);
    knobs.idle_after = "1s";
    let stage = Stage::set(&knobs).await;
    let mut log = messages(SEED + 1, &story()[3..6]);
    log.truncate(log.len() - PARTITIONS as usize);
    log.retain(|record| record.partition != 1);
    produce(&knobs.brokers, &topic, &log);

    let reference = Reference::of_ended(&log, &stage.baseline_csv);
    assert_eq!(reference.messages[1], 0);
    run_undisturbed(&stage, &log, reference.windows.len()).await;
    check(&stage, &reference).await;
}

// --- the same, whatever happens meanwhile --------------------------------------------------------

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

pub(crate) fn assert_same(found: &[String], expected: &[String]) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

/// When the daemon is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Not at all.
    Never,
    /// Everything read is saved; more comes while nobody reads.
    Saved,
    /// Messages are read, and their checkpoint is under way.
    Checkpoint,
    /// A window's verdict is under way.
    Verdict,
}

/// The moments in an order that the seed decides.
fn moments(dice: &mut Dice) -> Vec<Moment> {
    use Moment::{Checkpoint, Never, Saved, Verdict};
    let mut left = vec![Never, Saved, Checkpoint, Checkpoint, Verdict];
    let mut moments = Vec::new();
    while !left.is_empty() {
        let at = usize::try_from(dice.below(left.len() as u64)).unwrap();
        moments.push(left.swap_remove(at));
    }
    moments
}

#[tokio::test]
async fn killed_at_any_moment_the_rows_are_the_same() {
    let log = messages(SEED + 2, &story());
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let reference = Reference::of(&log, &stage.baseline_csv);
    let ((), expected) = tokio::join!(
        run_killed(&stage, &knobs, &log, reference.windows.len()),
        undisturbed(&log)
    );
    check(&stage, &reference).await;
    assert_same(&stage.results().await, &expected);
}

/// Runs a daemon over a log that comes in parts, each with its moment.
async fn run_killed(stage: &Stage, knobs: &Knobs, log: &[Record], windows: usize) {
    let mut dice = Dice::new(SEED + 3);
    let moments = moments(&mut dice);
    let mut produced = 0;
    let mut daemon = Daemon::start(&stage.config);
    for (i, moment) in moments.iter().enumerate() {
        let (rest, parts) = (log.len() - produced, moments.len() - i);
        let more = match parts {
            1 => rest,
            _ => rest / parts / 2 + usize::try_from(dice.below((rest / parts) as u64)).unwrap(),
        };
        let part = &log[produced..produced + more];
        produced += more;
        daemon = run_part(stage, knobs, part, *moment, daemon).await;
        stage.saved(produced).await;
    }
    stage.judged(windows).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}

/// Produces a part and kills the daemon at a moment; returns the one that runs after that.
async fn run_part(
    stage: &Stage,
    knobs: &Knobs,
    part: &[Record],
    moment: Moment,
    daemon: Daemon,
) -> Daemon {
    let table = match moment {
        Moment::Never => {
            produce(&knobs.brokers, &knobs.topic, part);
            return daemon;
        }
        Moment::Saved => {
            daemon.kill();
            produce(&knobs.brokers, &knobs.topic, part);
            return Daemon::start(&stage.config);
        }
        Moment::Checkpoint => "checkpoints",
        Moment::Verdict => "windows",
    };
    let lock = hold(&stage.db.pool, table).await;
    produce(&knobs.brokers, &knobs.topic, part);
    until(&format!("{table} is waited for"), async || {
        is_held_up(&stage.db.pool, table).await
    })
    .await;
    daemon.kill();
    lock.rollback().await.unwrap();
    Daemon::start(&stage.config)
}

#[tokio::test]
async fn two_replicas_write_the_same_rows_as_one() {
    let log = messages(SEED + 4, &story());
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let reference = Reference::of(&log, &stage.baseline_csv);
    let ((), expected) = tokio::join!(
        run_two(&stage, &knobs, &log, reference.windows.len()),
        undisturbed(&log)
    );
    check(&stage, &reference).await;
    assert_same(&stage.results().await, &expected);
}

/// One replica reads the first third, two share the second, the other one reads the last.
async fn run_two(stage: &Stage, knobs: &Knobs, log: &[Record], windows: usize) {
    let third = log.len() / 3;
    produce(&knobs.brokers, &knobs.topic, &log[..third]);
    let mut one = Daemon::start(&stage.config);
    stage.saved(third).await;
    let mut other = Daemon::start(&stage.config);
    until("each replica has a partition", async || {
        let owners = "select count(distinct owner) from driftd.partition_progress";
        stage.count(owners).await == 2
    })
    .await;
    produce(&knobs.brokers, &knobs.topic, &log[third..2 * third]);
    stage.saved(2 * third).await;
    assert!(one.terminate().await.success(), "{}", one.log());
    produce(&knobs.brokers, &knobs.topic, &log[2 * third..]);
    stage.saved(log.len()).await;
    stage.judged(windows).await;
    assert!(other.terminate().await.success(), "{}", other.log());
}

// --- on Apache Kafka -----------------------------------------------------------------------------

#[tokio::test]
async fn apache_kafka_gives_the_same() {
    let Some(kafka) = Kafka::start_or_skip("end_to_end::apache_kafka_gives_the_same") else {
        return;
    };
    let knobs = kafka_topic(kafka, PARTITIONS).await;
    let stage = Stage::set(&knobs).await;
    let log = messages(SEED, &story());
    produce(&knobs.brokers, &knobs.topic, &log);
    let reference = Reference::of(&log, &stage.baseline_csv);
    run_undisturbed(&stage, &log, reference.windows.len()).await;
    check(&stage, &reference).await;
}

/// Reading begins with the first record of each partition that is not older than the time given.
#[tokio::test]
async fn a_start_by_timestamp_begins_there() {
    let Some(kafka) = Kafka::start_or_skip("end_to_end::a_start_by_timestamp_begins_there") else {
        return;
    };
    let mut knobs = kafka_topic(kafka, PARTITIONS).await;
    knobs.start_at = "2013-04-01T00:30:00Z";
    let from_ms = start_of(3).timestamp_millis();
    let stage = Stage::set(&knobs).await;
    let log = messages(SEED, &story()[..8]);
    produce(&knobs.brokers, &knobs.topic, &log);

    let of_partition = |partition| {
        log.iter()
            .filter(move |record| record.partition == partition)
    };
    let first: Vec<usize> = (0..PARTITIONS)
        .map(|partition| {
            of_partition(partition)
                .position(|r| r.record_ms >= from_ms)
                .unwrap()
        })
        .collect();
    let mut place = vec![0; first.len()];
    let mut read = log.clone();
    read.retain(|record| {
        let partition = usize::try_from(record.partition).unwrap();
        place[partition] += 1;
        place[partition] > first[partition]
    });
    let reference = Reference::of(&read, &stage.baseline_csv);
    run_undisturbed(&stage, &read, reference.windows.len()).await;

    check_windows(&stage.db.pool, &reference.windows).await;
    check_scores(&stage.db.pool, &reference.windows).await;
    let first: Vec<i64> = first.iter().map(|at| i64::try_from(*at).unwrap()).collect();
    let all: Vec<i64> = (0..PARTITIONS)
        .map(|p| i64::try_from(of_partition(p).count()).unwrap())
        .collect();
    stage.check_coverage(&first, &all).await;
}
